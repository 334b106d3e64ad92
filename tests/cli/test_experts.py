"""The verb's own part; `tests/stories/test_line.py` runs it as users do."""

import shutil
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.cli.experts import main, version_file, versions_of
from moleflow_pl.errors import ConfigError


def test_versions_are_numbered_and_found(tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    folder.mkdir()
    for name in ("a~1", "a~10", "a~2", "b~1", "a", "a~b~3"):
        (folder / f"{name}.safetensors").touch()
    assert versions_of(RunFolder(tmp_path), "a") == [1, 2, 10]
    assert versions_of(RunFolder(tmp_path), "a~b") == [3]
    assert version_file(RunFolder(tmp_path), "a", None).stem == "a~10"
    assert version_file(RunFolder(tmp_path), "a", 2).stem == "a~2"
    with pytest.raises(ConfigError, match=r"no version 3 of 'a' in .*: \[1, 2, 10\]"):
        version_file(RunFolder(tmp_path), "a", 3)
    with pytest.raises(ConfigError, match=r"no version  ?of 'c'"):
        version_file(RunFolder(tmp_path), "c", None)


def test_list_shows_what_is_known_of_each_expert(
    learned: tuple[Path, MoLEFlow], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["list", "--ckpt_path", str(learned[0] / "last.ckpt")])
    shown = capsys.readouterr().out
    assert "01" in shown
    assert "1.000" in shown


class StoppedError(Exception):
    """A stop in the middle of an update."""


def test_a_stopped_update_goes_on_as_it_was_asked_and_begins_anew_otherwise(
    learned: tuple[Path, MoLEFlow],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = shutil.copytree(learned[0], tmp_path / "run") / "last.ckpt"

    def stop(args: list[str]) -> None:
        raise StoppedError

    def update(*options: str) -> str:
        with pytest.raises(StoppedError):
            main(["update", "b", "--ckpt_path", str(path), *options])
        return capsys.readouterr().out

    monkeypatch.setattr("moleflow_pl.cli.lightning.main", stop)
    work = tmp_path / "run" / "updates" / "b~1"
    assert update("--data.root=new") == ""
    (work / "half learned").touch()
    assert update("--data.root=new") == ""
    assert (work / "half learned").exists()
    said = update("--data.root=other")
    assert f"other options was stopped: it is now in {work}~1" in said
    assert sorted(file.name for file in work.iterdir()) == ["last.ckpt", "update.json"]
    assert (work.parent / "b~1~1" / "half learned").exists()


def test_options_of_a_fit_belong_to_update_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "--ckpt_path", "x.ckpt", "--data.root=y"])
    assert "unrecognized arguments: --data.root=y" in capsys.readouterr().err
