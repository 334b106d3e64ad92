from pathlib import Path

import pytest

from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.cli.expert_versions import free_version, version_file, versions_of
from moleflow_pl.errors import ConfigError


def test_versions_are_numbered_and_found(tmp_path: Path) -> None:
    run, folder = RunFolder(tmp_path), tmp_path / "experts"
    folder.mkdir()
    for name in ("a~1", "a~10", "a~2", "b~1", "a", "a~b~3"):
        (folder / f"{name}.safetensors").touch()
    assert versions_of(run, "a") == [1, 2, 10]
    assert versions_of(run, "a~b") == [3]
    assert [free_version(run, name) for name in ("a", "b", "c")] == [11, 2, 1]
    assert version_file(run, "a", None).stem == "a~10"
    assert version_file(run, "a", 2).stem == "a~2"
    with pytest.raises(ConfigError, match=r"no version 3 of 'a' in .*: \[1, 2, 10\]"):
        version_file(run, "a", 3)
    with pytest.raises(ConfigError, match=r"no version  ?of 'c'"):
        version_file(run, "c", None)
