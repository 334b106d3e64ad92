import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moleflow_pl.checkpoints.run_folder import HOLDER, LOCK, move_aside
from moleflow_pl.checkpoints.run_lock import RunLock, locked_for
from moleflow_pl.errors import OutputError

HOLD = """
import sys
from pathlib import Path
from moleflow_pl.checkpoints.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds a folder."""
    program = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, cwd=Path(__file__).parents[2], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_folder_that_is_held_is_refused_by_the_name_of_its_holder(tmp_path: Path) -> None:
    with held(tmp_path) as process:
        with pytest.raises(OutputError, match="is being written by process") as error:
            RunLock(tmp_path).acquire()
        note = json.loads((tmp_path / HOLDER).read_text())
        assert note["process"] == process.pid
        for part in ("process", "host", "started"):
            assert str(note[part]) in str(error.value)
        process.stdin.close()
        process.wait()
        assert not (tmp_path / HOLDER).exists()
    with RunLock(tmp_path):
        pass


def test_folder_of_a_writer_that_was_killed_is_free_and_cleared_of_what_it_half_wrote(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with held(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (tmp_path / "report").mkdir()
    for name in ("last.ckpt.0123abcd.part", "report/a.json.0123abcd.part", "last.ckpt"):
        (tmp_path / name).touch()
    # an export checks its file before it is there
    draft = tmp_path / "report" / "moleflow.onnx.0123abcd.part"
    draft.mkdir()
    for name in ("moleflow.onnx", "moleflow.onnx.data", "moleflow.onnx.sha256.0123abcd.part"):
        (draft / name).touch()
    with caplog.at_level(logging.INFO, "moleflow_pl"), RunLock(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
    assert f"process {process.pid} on " in caplog.text
    assert "was killed while writing" in caplog.text
    assert {path.name for path in tmp_path.rglob("*")} - {LOCK} == {"last.ckpt", "report"}


def test_partial_files_of_others_stay_where_a_writer_was_killed(tmp_path: Path) -> None:
    (tmp_path / HOLDER).touch()  # left by the writer
    theirs = (
        "film.part", "pictures/film.part", "a.0123ABCD.part", "a.0123abc.part", "models.part/a.txt",
        "x.onnx.0123abcd.part/a.txt", "y/z.0123abcd.part/z/a.txt", "y/deep/er/a.0123abcd.part",
    )  # fmt: skip
    for name in theirs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("theirs")
    with RunLock(tmp_path):
        pass
    assert {name for name in theirs if (tmp_path / name).is_file()} == set(theirs)


def test_note_that_is_a_folder_is_named_in_one_sentence_and_stays(tmp_path: Path) -> None:
    (tmp_path / HOLDER).mkdir()
    with pytest.raises(OutputError, match=f"cannot write .*{HOLDER}: it is not a file but a fold"):
        RunLock(tmp_path).acquire()
    assert [path.name for path in tmp_path.iterdir()] == [HOLDER]


def test_folder_below_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="a link in it leads back to itself"):
        RunLock(tmp_path / "loop" / "run").acquire()


def test_holder_takes_its_lock_again_and_keeps_it_to_the_end(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with RunLock(tmp_path):
            pass
        assert (tmp_path / HOLDER).exists()
        held_elsewhere = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "is being written by" in held_elsewhere.stderr
    assert not (tmp_path / HOLDER).exists()


def test_note_that_is_damaged_names_nobody(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"process": 1}', "\x00"):
        (tmp_path / HOLDER).write_text(text)
        assert RunLock(tmp_path).holder() == "another process"


def test_lock_that_is_not_held_can_be_released(tmp_path: Path) -> None:
    RunLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_file_elsewhere_needs_no_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with held(run):
        with locked_for(tmp_path / "b.onnx", run):
            pass
        with pytest.raises(OutputError), locked_for(run / "export" / "b.onnx", run):
            pass


def test_folder_that_cannot_be_locked_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        RunLock(tmp_path / "file").acquire()


def test_folder_whose_contents_are_moved_aside_stays_held(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "predictions.csv").write_text("old")
    with RunLock(folder):
        aside = move_aside(folder)
        assert [path.name for path in aside.iterdir()] == ["predictions.csv"]
        other = [sys.executable, "-c", HOLD, str(folder)]
        found = subprocess.run(other, input="", capture_output=True, text=True, check=False)
        assert f"is being written by process {os.getpid()}" in found.stderr
    assert not (folder / HOLDER).exists()
