"""Which reviews the model has learned from, after a crash and after a rollback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from moleflow_pl.checkpoints.expert_versions import roll_back
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import CheckpointError, ConfigError, DataError
from moleflow_pl.service import applications, locks
from moleflow_pl.service import reviews as service_reviews
from moleflow_pl.service.applications import adopt, begin, marks_in
from moleflow_pl.service.database import Audit, Database, Review
from moleflow_pl.service.images import ImageStore
from moleflow_pl.service.machine import NAME
from moleflow_pl.service.models import newest, publish
from moleflow_pl.service.reviews import apply_reviews, pending
from moleflow_pl.service.tables import Application
from tests.helpers.commands import ROOT
from tests.helpers.reviewing import kept_run
from tests.helpers.service import count, reviewed_record

# applies reviews, and is killed as it calls one function
KILLED = """
import os, signal, sys
from pathlib import Path
import moleflow_pl.inference.reviews, moleflow_pl.service.reviews, moleflow_pl.service.applications
from moleflow_pl.service.database import Database
from moleflow_pl.service.images import ImageStore

folder, module, name, calls = Path(sys.argv[1]), sys.modules[sys.argv[2]], *sys.argv[3:]
called, before = [], getattr(module, name)

def instead(*args, **options):
    called.append(name)
    if len(called) == int(calls):
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*args, **options)

setattr(module, name, instead)
database = Database(folder / "line.sqlite")
moleflow_pl.service.reviews.apply_reviews(database, ImageStore(folder / "images", 10**6), "Ann")
"""
SERVICE = "moleflow_pl.service."
# the function, its call, and whether the model's file is written by then
STEPS = {
    "before it is noted": (f"{SERVICE}reviews", "require_held", 1, False),
    "before the file": ("moleflow_pl.inference.reviews", "write_checkpoint", 1, False),
    "after the file": (f"{SERVICE}reviews", "adopt", 2, True),
    "in the transaction": (f"{SERVICE}applications", "add_version", 2, True),
}


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", 10**6)


@pytest.fixture
def database(tmp_path: Path, store: ImageStore, data_root: Path) -> Database:
    return reviewed_record(tmp_path, store, data_root)


def verdicts(database: Database, store: ImageStore) -> list[str]:
    """Of the reviews that wait."""
    return [one.review.verdict for one in pending(database, store)]


def calibration_images(run: Path) -> int:
    """Of the product `b`."""
    tasks = read_checkpoint(run / "last.ckpt")[STATE_KEY]["tasks"]
    return next(len(t["calibration"]["scores"]) for t in tasks if t["products"] == ["b"])


def actions(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(Audit.action).order_by(Audit.id)))


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_teaches_no_image_twice_and_loses_no_entry(
    step: str, database: Database, store: ImageStore, tmp_path: Path
) -> None:
    *words, written = STEPS[step]
    run = tmp_path / "run"
    images = calibration_images(run)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), *map(str, words)], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert verdicts(database, store) == ["right", "false_alarm", "false_alarm"]
    begin(database, run)  # the next start
    assert count(database, Application) == written
    if written:
        with pytest.raises(DataError, match="nothing to learn"):
            apply_reviews(database, store, "Ann")
    else:
        assert apply_reviews(database, store, "Ann") == ["b"]
    assert verdicts(database, store) == ["right"]
    assert calibration_images(run) == images + 2
    assert actions(database).count("apply reviews") == 1
    assert actions(database).count("swap") == 2
    assert len(marks_in(run / "last.ckpt")) == 1


def test_a_locked_database_after_the_file_leaves_the_rest_to_the_next_call(
    database: Database, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def locked(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise OperationalError("update", {}, Exception("database is locked"))
        return adopt(*args)  # type: ignore[arg-type]

    images = calibration_images(tmp_path / "run")
    monkeypatch.setattr(service_reviews, "adopt", locked)
    with pytest.raises(OperationalError, match="locked"):
        apply_reviews(database, store, "Ann")
    with pytest.raises(DataError, match="nothing to learn"):
        apply_reviews(database, store, "Ben")
    assert calibration_images(tmp_path / "run") == images + 2
    with database.reading() as session:
        entry = session.scalars(select(Audit).where(Audit.action == "apply reviews")).one()
    assert (entry.who, entry.detail["expert"]) == ("Ann", "b")


def test_reviews_wait_again_after_a_rollback_and_no_longer_after_its_rollback(
    database: Database, store: ImageStore, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    path = run.root / "last.ckpt"
    apply_reviews(database, store, "Ann")
    for expected in (["right", "false_alarm", "false_alarm"], ["right"]):
        checkpoint = read_checkpoint(path)
        roll_back(checkpoint, "b", None, run)
        write_checkpoint(checkpoint, path)
        adopt(database, path)
        assert verdicts(database, store) == expected
    assert actions(database).count("reviews rolled back") == 1


def test_more_reviews_than_a_query_takes_are_marked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applications, "AT_ONCE", 2)
    with database.reading() as session:
        numbers = list(session.scalars(select(Review.id)))
    assert len(numbers) == 3
    row = {"path": "x", "expert": "b", "who": "Ann", "done": None}
    with database.writing() as session:
        session.add(Application(mark="m", reviews=numbers, **row))
        session.flush()
        applications.settle(session, "x", {"m"})
    with database.reading() as session:
        assert all(session.scalars(select(Review.applied_when)))


def test_who_has_lost_the_lock_writes_nothing(
    database: Database, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stolen(session: object, name: str, holder: str) -> None:
        locks.require_held(session, name, "another")  # type: ignore[arg-type]

    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    monkeypatch.setattr(service_reviews, "require_held", stolen)
    with pytest.raises(locks.BusyError, match="took so long"):
        apply_reviews(database, store, "Ann")
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
    assert count(database, Application) == 0


def test_a_stale_machine_does_not_bring_its_old_model_back(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = kept_run(tmp_path / "old")
    with database.reading() as session:
        first = newest(session)
    assert first is not None
    other = tmp_path / "run" / "other.ckpt"
    checkpoint = read_checkpoint(old)
    checkpoint[STATE_KEY]["seed"] += 1
    write_checkpoint(checkpoint, other)
    monkeypatch.setenv(NAME, "one")
    published = publish(database, other, "ann")
    with locks.exclusive(database, "a source"):
        monkeypatch.setenv(NAME, "two")
        with pytest.raises(
            ConfigError, match="not the model of the services on one: .*all machines share"
        ):
            begin(database, old)
        assert begin(database, other).id == published.id
    assert begin(database, old).digest == first.digest  # nobody else is there


def test_a_file_that_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        marks_in(tmp_path / "last.ckpt")
