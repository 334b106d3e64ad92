"""Rows of many requests in one transaction."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from moleflow_pl.errors import OutputError
from moleflow_pl.service.database import Base, Database, Inspection, Outbox, SeenFile
from moleflow_pl.service.recorder import Recorder, TakenError
from tests.helpers.service import an_inspection, count, wait_until


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "line.sqlite")


def seen(inspection: Inspection) -> SeenFile:
    return SeenFile(
        source="folder", path="a.png", size=1, modified=1, inspection=inspection, when=1.0
    )


def test_rows_are_committed_and_have_their_number_when_the_future_is_done(
    database: Database,
) -> None:
    recorder, inspection = Recorder(database), an_inspection()
    recorder.add(inspection, Outbox(sink="csv", inspection=inspection)).result(5)
    assert inspection.id == 1
    with Database(database.url).reading() as session:
        assert session.get(Outbox, 1).inspection.id == 1
    recorder.stop()


def test_rows_that_come_during_a_commit_share_the_next(database: Database) -> None:
    commits = []
    event.listen(database.engine, "commit", commits.append)
    recorder = Recorder(database)
    with database.writing():  # the first waits for this one
        futures = [recorder.add(an_inspection()) for _ in range(20)]
    for future in futures:
        future.result(5)
    assert count(database, Inspection) == 20
    assert len(commits) <= 4
    recorder.stop()


def test_rows_that_may_not_be_twice_fail_alone(database: Database) -> None:
    recorder = Recorder(database)
    first = an_inspection()
    recorder.add(first, seen(first)).result(5)
    twice, other = an_inspection(), an_inspection()
    with database.writing():
        futures: list = [recorder.add(an_inspection())]
        futures += [recorder.add(twice, seen(twice)), recorder.add(other)]
    futures[0].result(5)
    futures[2].result(5)
    with pytest.raises(TakenError):
        futures[1].result(5)
    assert (count(database, Inspection), count(database, SeenFile)) == (3, 1)
    recorder.stop()


def test_a_database_that_is_gone_is_told_and_the_next_rows_are_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(database)
    with monkeypatch.context() as patch:
        broken = Database(database.url)
        with broken.writing() as session:
            Base.metadata.drop_all(session.connection())
        with pytest.raises(OutputError, match="no such table"):
            recorder.add(an_inspection()).result(5)
        patch.undo()
    with broken.writing() as session:
        Base.metadata.create_all(session.connection())
    recorder.add(an_inspection()).result(5)
    recorder.stop()


def test_a_stop_writes_what_waits(database: Database) -> None:
    recorder = Recorder(database)
    with database.writing():
        futures = [recorder.add(an_inspection()) for _ in range(3)]
        stop = threading.Thread(target=recorder.stop)
        stop.start()
    stop.join()
    assert all(future.done() for future in futures)
    assert count(database, Inspection) == 3


def test_a_full_database_is_told_and_takes_rows_again_when_there_is_room(
    database: Database,
) -> None:
    def limit(connection: Any, record: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # as many pages as there are

    recorder = Recorder(database)
    event.listen(database.engine, "connect", limit)
    database.close()
    with pytest.raises(OutputError, match="full"):
        recorder.add(an_inspection(image_name="x" * 100_000)).result(5)
    event.remove(database.engine, "connect", limit)
    database.close()
    recorder.add(an_inspection(image_name="x" * 100_000)).result(5)
    assert count(database, Inspection) == 1
    recorder.stop()


def test_rows_that_were_given_up_are_not_written_and_end_nothing(database: Database) -> None:
    recorder = Recorder(database)
    with database.writing():
        first = recorder.add(an_inspection())
        wait_until(first.running)
        given_up = recorder.add(an_inspection())
        assert given_up.cancel()
        assert not first.cancel()  # it may be in the database
    first.result(60)
    recorder.add(an_inspection()).result(60)
    assert (count(database, Inspection), recorder.alive) == (2, True)
    recorder.stop()
    assert not recorder.alive
