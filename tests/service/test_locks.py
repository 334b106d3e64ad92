"""A lock in the database."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from moleflow_pl.service import locks
from moleflow_pl.service.database import Database, Lease
from moleflow_pl.service.locks import BusyError, exclusive
from tests.helpers.service import competing, wait_until


@pytest.fixture
def two(tmp_path: Path) -> tuple[Database, Database]:
    """A database as two processes have it."""
    return Database(tmp_path / "line.sqlite"), Database(tmp_path / "line.sqlite")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the locks: a lease ends when the test says so."""
    clock = Clock()
    monkeypatch.setattr(Database, "now", lambda *_: clock.time())
    return clock


def test_of_two_that_apply_reviews_at_once_one_is_refused(two: tuple[Database, Database]) -> None:
    with exclusive(two[0], "reviews"):
        with (
            pytest.raises(BusyError, match="reviews: another process"),
            exclusive(two[1], "reviews"),
        ):
            pass
        with exclusive(two[1], "something else"):
            pass
    with exclusive(two[1], "reviews"):
        pass


def test_of_many_threads_exactly_one_gets_it(two: tuple[Database, Database]) -> None:
    assert competing([two[i % 2] for i in range(6)]) == [False] * 5 + [True]


def test_what_a_killed_process_held_is_free_after_its_time(
    two: tuple[Database, Database], clock: Clock
) -> None:
    locks.acquire(two[0], "reviews", "killed")
    clock.now += locks.SECONDS - 1
    with pytest.raises(BusyError):
        locks.acquire(two[1], "reviews", "other")
    clock.now += 2
    locks.acquire(two[1], "reviews", "other")


def test_what_an_ended_process_of_this_machine_held_is_free_at_once(
    two: tuple[Database, Database],
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for number in (ended.pid, os.getpid()):  # of a container that was started again, perhaps
        locks.acquire(two[0], "reviews", f"{socket.gethostname()} {number} x")
        with exclusive(two[1], "reviews"):
            pass
    for holder in (f"{socket.gethostname()} {os.getppid()} x", "elsewhere 1 x"):
        locks.acquire(two[0], holder, holder)
        with pytest.raises(BusyError):
            locks.acquire(two[1], holder, "other")


def test_a_long_work_keeps_its_lock(
    two: tuple[Database, Database], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "RENEWALS", 1000 * locks.SECONDS)  # one each ms

    def until() -> float:
        with two[1].reading() as session:
            return session.get_one(Lease, "reviews").until

    first = clock.now + locks.SECONDS
    with exclusive(two[0], "reviews"):
        assert until() == first
        clock.now = first - 1
        wait_until(lambda: until() == clock.now + locks.SECONDS)
        clock.now = first + 1
        with pytest.raises(BusyError):
            locks.acquire(two[1], "reviews", "other")
