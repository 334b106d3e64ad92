"""The verb's own part; `tests/stories/test_line.py` runs it as users do."""

import json
import logging
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow, errors
from moleflow_pl._internal.schema import SCHEMA
from moleflow_pl.checkpoints.expert_edits import extract, learned_schedule
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.cli import main as cli
from moleflow_pl.cli.experts import main
from moleflow_pl.errors import CheckpointError, ConfigError, OutputError


def cells(shown: str, name: str) -> list[str]:
    """The cells of an expert's row in the last table shown."""
    table = shown.rpartition("experts on")[2].splitlines()
    (row,) = [line for line in table if f"│ {name} " in line]
    return [cell.strip() for cell in row.split("│")[1:-1]]


def test_list_shows_what_is_known_of_each_expert_whoever_comes_or_goes(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "160")
    path = str(shutil.copytree(learned[0], tmp_path / "run") / "last.ckpt")
    main(["list", "--ckpt_path", path])
    known = cells(capsys.readouterr().out, "b")
    task = learned[1].schedule.tasks[1]
    assert known[0] == "b"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", known[1])
    assert known[2] == "5 + 1"  # six good images, a tenth of them for calibration
    assert known[3] == f"{task.calibration.score_threshold.value:.4g}"  # type: ignore[union-attr]
    assert known[4] == "1.000"
    assert re.fullmatch(r"\d+% \(\d of 3\)", known[5])
    file = str(tmp_path / "01.safetensors")
    main(["export", "01", "--ckpt_path", path, "--output", file])
    main(["remove", "01", "--ckpt_path", path])
    assert cells(capsys.readouterr().out, "b") == known
    main(["import", file, "--name", "x", "--ckpt_path", path])
    shown = capsys.readouterr().out
    assert cells(shown, "b") == known
    assert cells(shown, "x")[4] == "1.000"


def test_a_version_is_restored_under_the_name_that_its_product_has_by_then(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(learned[0], tmp_path / "run")
    path, named = run / "last.ckpt", ["--ckpt_path", str(run / "last.ckpt")]
    expert = extract(read_checkpoint(path), "b")
    expert.task.epochs = expert.task.epochs_done = 7
    expert.save(run / "experts" / "versions" / "b~1.safetensors")
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["rename", "b", "x", *named])
        main(["rollback", "x", *named])
    assert [task.name for task in learned_schedule(read_checkpoint(path)).tasks] == ["01", "x"]
    assert learned_schedule(read_checkpoint(path)).tasks[1].epochs == 7
    said = "\n".join(caplog.messages)
    for words in (
        "renamed b to x", f"saved: {path}", "saved versions of x: 1",
        "x is version 1 again, learned 2",
        f"saved the x expert that was in the model as {RunFolder(run).expert('x', 2)}",
    ):  # fmt: skip
        assert words in said
    assert not (run / "experts" / "versions" / "b~1.safetensors").exists()


def test_what_comes_and_goes_is_confirmed(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(learned[0], tmp_path / "run")
    named = ["--ckpt_path", str(run / "last.ckpt")]
    saved = run / "experts" / "versions" / "b~1.safetensors"
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        main(["remove", "b", *named])
        main(["import", str(saved), "--name=y", *named])
    said = "\n".join(caplog.messages)
    restore = shlex.join(["moleflow", "experts", "import", str(run), str(saved)])
    assert f"removed b; to restore it: {restore}" in said
    assert f"imported y from {saved}" in said


def test_a_list_shows_names_as_text(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "last.ckpt"
    checkpoint = read_checkpoint(learned[0] / "last.ckpt")
    checkpoint[STATE_KEY]["tasks"][0]["learned_at"] = "[red]a[/x]"
    write_checkpoint(checkpoint, path)
    main(["rename", "b", "[bold]x", "--ckpt_path", str(path)])
    shown = capsys.readouterr().out
    assert "[bold]x" in shown
    assert "[red]a[/x]" in shown


def test_a_list_that_cannot_be_printed_calls_no_file_damaged(
    learned: tuple[Path, MoLEFlow], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(table: object) -> None:
        raise UnicodeEncodeError("ascii", "é", 0, 1, "not in range")

    monkeypatch.setattr("moleflow_pl._internal.console.print_table", fail)
    with pytest.raises(UnicodeEncodeError):
        main(["list", "--ckpt_path", str(learned[0] / "last.ckpt")])


class StoppedError(Exception):
    """A stop in the middle of an update."""


def test_a_stopped_update_goes_on_as_it_was_asked_and_begins_anew_otherwise(
    learned: tuple[Path, MoLEFlow],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = shutil.copytree(learned[0], tmp_path / "run") / "last.ckpt"

    def stop(args: list[str]) -> None:
        raise StoppedError

    def update(*options: str) -> str:
        caplog.clear()
        with pytest.raises(StoppedError), caplog.at_level(logging.INFO, "moleflow_pl"):
            main(["update", "b", "--ckpt_path", str(path), *options])
        return "\n".join(caplog.messages)

    monkeypatch.setattr("moleflow_pl.cli.lightning.main", stop)
    work = tmp_path / "run" / "updates" / "b~1"
    assert update("--data.root=new") == ""
    (work / "half learned").touch()
    assert update("--data.root=new") == ""
    assert (work / "half learned").exists()
    said = update("--data.root=other")
    assert f"moved the stopped update, which had other options, to {work}~1" in said
    assert sorted(file.name for file in work.iterdir()) == ["last.ckpt", "update.json"]
    assert json.loads((work / "update.json").read_text())["schema"] == SCHEMA
    assert (work.parent / "b~1~1" / "half learned").exists()


def test_an_update_that_a_limit_stopped_resumes_without_the_limit(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(learned[0], tmp_path / "run") / "last.ckpt"

    def stop(args: list[str]) -> None:
        changes = {"--trainer.max_steps": "-1", "--ckpt_path": "run/updates/b~1/last.ckpt"}
        raise errors.StoppedError("0 of 1 tasks learned", None, changes)

    monkeypatch.setattr("moleflow_pl.cli.lightning.main", stop)
    with pytest.raises(errors.StoppedError) as stopped:
        main(["update", "b", "--ckpt_path", str(path), "--trainer.max_steps=1"])
    assert stopped.value.changes == {"--trainer.max_steps": "-1"}


def test_options_of_a_fit_belong_to_update_alone() -> None:
    with pytest.raises(ConfigError, match="moleflow experts list has no option --data.root"):
        main(["list", "--ckpt_path", "x.ckpt", "--data.root=y"])


@pytest.mark.parametrize("action", ["import", "rollback"])
def test_file_that_cannot_be_taken_over_is_named_and_the_model_stays(
    action: str, learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    run = shutil.copytree(learned[0], tmp_path / "run")
    path, file = run / "last.ckpt", run / "experts" / "versions" / "b~1.safetensors"
    before = path.read_bytes()
    expert = extract(read_checkpoint(path), "b")
    expert.task.calibration.false_alarm_rate = 0.5  # type: ignore[union-attr]
    expert.base = "0" * 64
    expert.save(file)
    named = [str(file), "--name", "x"] if action == "import" else ["b"]
    for said in ("learned on the base 0000", "is damaged: its contents"):
        with pytest.raises(CheckpointError, match=f"the expert file {file} .*{said}"):
            main([action, *named, "--ckpt_path", str(path)])
        assert path.read_bytes() == before
        damaged = bytearray(file.read_bytes())
        damaged[-1] ^= 1
        file.write_bytes(damaged)


def test_the_command_distinguishes_signed_models_and_experts(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    run = shutil.copytree(learned[0], tmp_path / "run")
    for name in "ab":
        (tmp_path / name).write_text(name * 32)
    model, key = f"--ckpt_path={run / 'last.ckpt'}", f"--key-file={tmp_path / 'a'}"
    file = tmp_path / "b.safetensors"
    required = [key, "--require-signature"]
    exported = ["experts", "export", "b", model, f"--output={file}"]
    with pytest.raises(SystemExit, match="last.ckpt cannot be used: it is not signed"):
        cli.main(["experts", "list", model, *required])
    cli.main([*exported])
    cli.main(["experts", "rename", "01", "x", model, key])
    cli.main(["experts", "list", model, *required])
    with pytest.raises(SystemExit, match="cannot be used: it is signed with another key"):
        cli.main(["experts", "list", model, f"--key-file={tmp_path / 'b'}"])
    taken = ["experts", "import", str(file), "--name=y", model, *required]
    with pytest.raises(SystemExit, match="the expert file .*b.safetensors is not signed"):
        cli.main(taken)
    cli.main([*exported, key])
    cli.main(taken)
    cli.main(["experts", "list", model])  # who has no key reads it too


@pytest.mark.parametrize("name", ["pipe", "folder", "loop/x", "a" * 300])
def test_output_that_can_be_no_file_is_refused_before_the_model_is_read(
    name: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write "):
        main(["export", "b", f"--ckpt_path={tmp_path / 'no.ckpt'}", f"--output={tmp_path / name}"])
    assert (tmp_path / "pipe").is_fifo()
    assert not list((tmp_path / "folder").iterdir())
