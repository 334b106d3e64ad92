"""The verb's own part; `tests/test_line.py` runs it as users do."""

from pathlib import Path

import pytest

from commands.experts import main, version_file, versions_of
from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError


def test_versions_are_numbered_and_found(tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    folder.mkdir()
    for name in ("a~1", "a~10", "a~2", "b~1", "a", "a~b~3"):
        (folder / f"{name}.safetensors").touch()
    assert versions_of(tmp_path, "a") == [1, 2, 10]
    assert versions_of(tmp_path, "a~b") == [3]
    assert version_file(tmp_path, "a", None).stem == "a~10"
    assert version_file(tmp_path, "a", 2).stem == "a~2"
    with pytest.raises(ConfigError, match=r"no version 3 of 'a' in .*: \[1, 2, 10\]"):
        version_file(tmp_path, "a", 3)
    with pytest.raises(ConfigError, match=r"no version  ?of 'c'"):
        version_file(tmp_path, "c", None)


def test_list_shows_what_is_known_of_each_expert(
    learned: tuple[Path, MoLEFlow], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["list", "--ckpt_path", str(learned[0] / "last.ckpt")])
    shown = capsys.readouterr().out
    assert "01" in shown
    assert "1.000" in shown


def test_options_of_a_fit_belong_to_update_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "--ckpt_path", "x.ckpt", "--data.root=y"])
    assert "unrecognized arguments: --data.root=y" in capsys.readouterr().err
