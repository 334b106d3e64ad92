import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from moleflow_pl._internal import presets
from moleflow_pl._internal.presets import preset_names, preset_path, read_preset
from moleflow_pl.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_file_in_configs_is_a_preset_by_its_name() -> None:
    assert preset_names() == sorted(path.stem for path in CONFIGS.iterdir())
    for name in preset_names():
        assert preset_path(name).samefile(CONFIGS / f"{name}.yaml")


def test_a_preset_is_read_by_its_name_alone() -> None:
    assert read_preset("demo")["model"]["score"] == ["bank", "groups"]
    with pytest.raises(ConfigError, match="'dmeo': there is no such preset. Did you mean demo?"):
        read_preset("dmeo")


def test_an_installed_package_has_its_presets_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it, in site-packages, `configs` would be somebody else's."""
    package = tmp_path / "moleflow_pl"
    (package / "configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (package / "configs" / "mine.yaml").write_text(yaml.safe_dump({"seed_everything": 1}))
    (tmp_path / "configs" / "other.yaml").touch()
    copy = package / "_internal" / "presets.py"
    copy.parent.mkdir()
    shutil.copy(presets.__file__, copy)
    spec = importlib.util.spec_from_file_location("installed_presets", copy)
    assert spec is not None
    assert spec.loader is not None
    installed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, installed)
    spec.loader.exec_module(installed)
    assert installed.preset_names() == ["mine"]
    assert installed.preset_path("mine") == package / "configs" / "mine.yaml"
