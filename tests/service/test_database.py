"""The record of a service."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from moleflow_pl import __version__
from moleflow_pl.errors import ConfigError, OutputError
from moleflow_pl.service import database as module
from moleflow_pl.service.database import Audit, Database, Inspection, Review
from tests.helpers.service import an_inspection


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "line.sqlite")


def test_what_was_written_is_there_for_the_next_process(database: Database) -> None:
    with database.writing() as session:
        session.add(an_inspection(product="Größe <b>"))
    database.close()
    again = Database(database.url)
    with again.reading() as session:
        (found,) = session.scalars(select(Inspection))
    assert (found.product, found.prediction["label"]) == ("Größe <b>", "normal")
    assert found.review is None


def test_a_block_that_fails_writes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.writing() as session:
            session.add(an_inspection())
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.reading() as session:
        assert not session.scalars(select(Inspection)).all()


def test_the_last_review_that_was_not_undone_counts(database: Database) -> None:
    with database.writing() as session:
        inspection = an_inspection()
        verdicts = ("right", "false_alarm", "missed_defect")
        inspection.reviews = [Review(verdict=v, who="ann", when=1.0) for v in verdicts]
        inspection.reviews[-1].undone_when = 2.0
        session.add(inspection)
    with database.reading() as session:
        (found,) = session.scalars(select(Inspection))
        assert found.review is not None
        assert found.review.verdict == "false_alarm"


def test_writers_at_once_wait_for_one_another(database: Database) -> None:
    """A transaction that begins by reading could not be made a writer beside another one."""

    def count_up() -> None:
        for _ in range(10):
            with database.writing() as session:
                row = session.get(module.Setting, "n") or module.Setting(name="n", value="0")
                row.value = str(int(row.value) + 1)
                session.add(row)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.setting("n", "0") == "40"


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with database.writing() as session:
        session.add(an_inspection())
        session.flush()
        began = time.perf_counter()
        with database.reading() as other:
            assert not other.scalars(select(Inspection)).all()
        assert time.perf_counter() - began < module.BUSY_SECONDS / 2


def test_a_database_that_stays_locked_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    database = Database(tmp_path / "line.sqlite")
    with sqlite3.connect(tmp_path / "line.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            database.audit("ann", "review")


def test_an_audit_row_says_who_did_what(database: Database) -> None:
    database.audit("ann", "swap", digest="ab")
    with database.reading() as session:
        (row,) = session.scalars(select(Audit))
    assert (row.who, row.action, row.detail) == ("ann", "swap", {"digest": "ab"})


def test_the_first_default_of_a_setting_stays(database: Database) -> None:
    assert [database.setting("secret", value) for value in "ab"] == ["a", "a"]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nothing://x", ConfigError),
        ("://", ConfigError),
        ("/dev/null/line.sqlite", OutputError),
        ("postgresql://me:secret@127.0.0.1:1/line", OutputError),
    ],
)
def test_a_database_that_cannot_be_is_told_without_its_password(url: str, error: type) -> None:
    with pytest.raises(error, match="database") as told:
        Database(url)
    assert "secret" not in str(told.value)


def test_a_database_of_another_schema_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(tmp_path / "line.sqlite").close()
    monkeypatch.setattr(module, "SCHEMA", "4")
    match = f"schema 3, and .* reads schema 4: use version {__version__}, which wrote it, or"
    with pytest.raises(ConfigError, match=match):
        Database(tmp_path / "line.sqlite")
