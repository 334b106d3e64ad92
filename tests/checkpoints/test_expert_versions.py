from pathlib import Path

import pytest

from moleflow_pl.checkpoints.expert_versions import (
    free_version,
    move_versions,
    version_number,
    versions_of,
)
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.errors import ConfigError


def test_versions_are_numbered_and_found(tmp_path: Path) -> None:
    run, folder = RunFolder(tmp_path), tmp_path / "experts" / "versions"
    folder.mkdir(parents=True)
    for name in ("a~1", "a~10", "a~2", "b~1", "a", "a~b~3", "a~\u00b25"):
        (folder / f"{name}.safetensors").touch()
    assert versions_of(run, "a") == [1, 2, 10]
    assert versions_of(run, "a~b") == [3]
    assert [free_version(run, name) for name in ("a", "b", "c")] == [11, 2, 1]
    assert version_number(run, "a", None) == 10
    assert version_number(run, "a", 2) == 2
    with pytest.raises(ConfigError, match=r"no version 3 of 'a' in .*: the saved .* \[1, 2, 10\]"):
        version_number(run, "a", 3)
    with pytest.raises(ConfigError, match=r"no version  ?of 'c'"):
        version_number(run, "c", None)


def test_versions_follow_a_new_name_after_those_that_have_it(tmp_path: Path) -> None:
    run, folder = RunFolder(tmp_path), tmp_path / "experts" / "versions"
    folder.mkdir(parents=True)
    run.expert("a").touch()
    for name in ("a~1", "a~3", "x~2"):
        (folder / f"{name}.safetensors").write_text(name)
    assert move_versions(run, "a", "x") == [3, 4]
    assert versions_of(run, "a") == []
    assert [run.expert("x", n).read_text() for n in (2, 3, 4)] == ["x~2", "a~1", "a~3"]
    assert run.expert("a").exists()  # an exported file is the user's


def test_the_exported_expert_of_another_product_is_no_version(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.expert("b", 1).parent.mkdir(parents=True)
    run.expert("b", 1).touch()
    run.expert("b~7").touch()  # of a product of this name
    run.expert("b~7", 2).touch()
    assert versions_of(run, "b") == [1]
    assert versions_of(run, "b~7") == [2]
