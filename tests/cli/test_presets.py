import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from moleflow_pl.cli import presets
from moleflow_pl.cli.presets import preset_names, preset_path, resolve
from moleflow_pl.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_file_in_configs_is_a_preset_by_its_name() -> None:
    assert preset_names() == sorted(path.stem for path in CONFIGS.iterdir())
    for name in preset_names():
        assert preset_path(name).samefile(CONFIGS / f"{name}.yaml")


def test_names_become_paths_in_either_spelling_and_several_times() -> None:
    given = ["fit", "--config", "demo", "--config=seed", "--data.root", "demo"]
    demo, seed = str(preset_path("demo")), str(preset_path("seed"))
    assert resolve(given) == ["fit", "--config", demo, f"--config={seed}", "--data.root", "demo"]


def test_a_file_of_that_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed_everything: 1")
    assert resolve(["fit", "--config=demo"]) == ["fit", "--config=demo"]
    (tmp_path / "demo").unlink()
    (tmp_path / "demo").mkdir()  # a folder cannot be read
    assert resolve(["fit", "--config=demo"]) == ["fit", f"--config={preset_path('demo')}"]


def test_a_file_of_names_beyond_ascii_is_read_as_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffdata: {tasks: [Schräube, ネジ]}".encode())
    assert resolve(["fit", f"--config={path}"])[1] == "--config=data: {tasks: [Schräube, ネジ]}"
    path.write_bytes("data: {tasks: [Schräube]}".encode("cp1252"))
    with pytest.raises(ConfigError, match="a.yaml is not UTF-8"):
        resolve(["fit", f"--config={path}"])


@pytest.mark.parametrize("text", ["{seed_everything: 1}", "seed_everything: 1\nmodel: {}\n"])
def test_options_as_yaml_text_are_passed_on(text: str) -> None:
    assert resolve(["fit", "--config", text]) == ["fit", "--config", text]


@pytest.mark.parametrize(
    ("name", "close"),
    [("dmeo", "demo"), ("mvtec_3x4", "mvtec_3x5"), ("configs/demo.yaml", "demo"), ("vísa", "visa")],
)
def test_an_unknown_name_is_answered_with_the_presets_and_the_closest(
    name: str, close: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        resolve(["fit", "--config", name])
    assert f"--config {name}: there is no such file and no such preset" in str(error.value)
    assert f"Did you mean {close}?" in str(error.value)
    assert all(preset in str(error.value) for preset in preset_names())


def test_a_name_like_no_other_gets_the_presets_alone() -> None:
    with pytest.raises(ConfigError, match=r"preset\. The presets are demo, .*visa"):
        resolve(["fit", "--config", "qqq"])


def test_an_installed_package_has_its_presets_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it, in site-packages, `configs` would be somebody else's."""
    package = tmp_path / "moleflow_pl"
    (package / "configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (package / "configs" / "mine.yaml").write_text(yaml.safe_dump({"seed_everything": 1}))
    (tmp_path / "configs" / "other.yaml").touch()
    copy = package / "cli" / "presets.py"
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
