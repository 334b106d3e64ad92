"""Two commands at once on one run: the second is refused, and changes nothing."""

import random
from pathlib import Path

import pytest

from moleflow_pl.checkpoints import run_lock
from moleflow_pl.checkpoints.run_folder import LOCK
from moleflow_pl.checkpoints.run_lock import RunLock
from moleflow_pl.errors import OutputError
from tests.helpers.at_once import BAD, AtOnce
from tests.helpers.commands import failure, run_here
from tests.helpers.models import fit
from tests.helpers.story import Story

WRITERS = (
    "fit", "test", "predict", "export", "calibrate --false-alarm-rate 0.1", "experts export b",
    "experts remove b", "experts rename b x", "experts update b", "experts rollback b",
    "experts import x.safetensors",
)  # fmt: skip
READERS = ("validate", "calibrate", "experts list", "experts export b --output b.safetensors")


@pytest.fixture
def held_run(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose folder another process holds, as far as the lock tells."""
    run = story.copy_to(tmp_path)

    class Held(run_lock.FileLock):  # type: ignore[misc]
        def acquire(self, *args: object, **options: object) -> object:
            if Path(self.lock_file).parent == run.resolve():
                raise run_lock.Timeout(self.lock_file)
            return super().acquire(*args, **options)

    monkeypatch.setattr(run_lock, "FileLock", Held)
    return run


def files(run: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(run.parent)): p for p in run.parent.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name != LOCK}


@pytest.mark.parametrize("args", WRITERS)
def test_whatever_writes_is_refused_while_another_does(
    args: str, held_run: Path, story: Story, tmp_path: Path
) -> None:
    before = files(held_run)
    given = [*args.split(), f"--ckpt_path={held_run / 'last.ckpt'}"]
    assert f"{held_run} is being written by another process" in failure(tmp_path, *given)
    assert files(held_run) == before


def test_new_fit_does_not_move_a_run_aside_that_is_being_written(
    held_run: Path, story: Story, tmp_path: Path
) -> None:
    before = files(held_run)
    assert "is being written by" in failure(tmp_path, *story.fit_into(held_run))
    assert files(held_run) == before


@pytest.mark.parametrize("args", READERS)
def test_readers_need_no_lock(args: str, held_run: Path, tmp_path: Path) -> None:
    run_here(tmp_path, *args.split(), f"--ckpt_path={held_run / 'last.ckpt'}")


def test_fit_in_python_is_refused_too_and_lets_go_of_its_folder(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = []
    release = RunLock.release
    monkeypatch.setattr(
        RunLock, "release", lambda self: (released.append(self.folder), release(self))
    )
    fit(tmp_path / "run", data_root, ["01"], epochs=1)
    assert tmp_path / "run" in released
    assert {path.name for path in (tmp_path / "run").iterdir()} - {LOCK} == {
        "last.ckpt", "report", "tasks",
    }  # fmt: skip

    def held(self: RunLock) -> None:
        raise OutputError("is being written by another process")

    monkeypatch.setattr(RunLock, "acquire", held)
    with pytest.raises(OutputError, match="is being written by"):
        fit(tmp_path / "run", data_root, ["01"], epochs=1)


@pytest.mark.slow  # `tests/soak/two_at_once.py` plays many more
@pytest.mark.parametrize(
    ("pair", "kills"),
    [(("fit", "predict"), False), (("predict", "predict"), True), (("calibrate", "add"), False)],
)
def test_two_commands_at_once_end_as_one_after_the_other(
    pair: tuple[str, str], kills: bool, story: Story, tmp_path: Path
) -> None:
    played = AtOnce(story, tmp_path).play(pair, random.Random(0), kills)
    assert not played.fault
    assert not {*played.outcomes} & {*BAD}
