"""Which reviews the model has learned from, also after a crash or a rollback.

Before the model's file changes, the reviews and a mark are noted in the database. The new expert
holds the mark. So the file itself tells which reviews it has learned from.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from moleflow_pl._internal.hashing import file_hash
from moleflow_pl.checkpoints.io import load_content, refusing, validate_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import ConfigError
from moleflow_pl.service.database import Audit, Database, Model, Review
from moleflow_pl.service.locks import BusyError, exclusive, other_machines
from moleflow_pl.service.machine import this_machine
from moleflow_pl.service.models import add_version, newest, publish, require_file
from moleflow_pl.service.tables import Application

LOCK = "reviews"  # whoever changes the model's file holds it
AT_ONCE = 500  # reviews in one query; a database takes only so many
WHO = "service"  # in the audit


def marks_in(path: Path) -> set[str]:
    """The marks that the experts of a checkpoint hold; those of replaced versions do not count.

    Raises:
        CheckpointError: the file cannot be read.
    """
    content = load_content(path, mmap=True)
    with refusing(path):
        tasks = validate_checkpoint(content)[STATE_KEY]["tasks"]
    current = [task for task in tasks if not task.get("replaced")]
    return {mark for task in current for mark in task.get("reviews", [])}


def adopt(database: Database, path: Path, who: str = WHO) -> Model:
    """Publish a file that may have changed, and agree with it on which reviews are applied.

    The caller holds `LOCK`.

    Raises:
        CheckpointError: the file cannot be read.
        OSError: as above.
    """
    file = require_file(path)
    digest, marks = file_hash(file), marks_in(file)
    with database.writing() as session:
        settle(session, str(file), marks)
        return add_version(session, file, digest, who)


def begin(database: Database, path: str | Path) -> Model:
    """Publish the model that a service starts with.

    Args:
        database: The record.
        path: A run folder or a checkpoint.

    Raises:
        CheckpointError: the file is missing, or cannot be read.
        ConfigError: services on other machines use another model.
    """
    with database.reading() as session:
        row, others = newest(session), other_machines(session, database)
    file = require_file(path)
    if row is not None and others and row.machine != this_machine():
        if row.digest == file_hash(file):
            return row
        raise ConfigError(
            f"{file} is not the model of the services on {', '.join(others)}: put the run "
            f"in a folder that all machines share, or copy {row.path} of {row.machine} here"
        )
    try:
        with exclusive(database, LOCK):
            return adopt(database, file, "start")
    except BusyError:  # who changes the file adopts it
        return publish(database, file, "start")


def settle(session: Session, path: str, marks: Collection[str]) -> None:
    """Finish applications that were begun, or forget them, and mark the reviews that are applied.

    Args:
        session: Of one transaction.
        path: The checkpoint.
        marks: Those that it holds.
    """
    rows = session.scalars(select(Application).order_by(Application.id)).all()
    for row in rows:
        if row.done is None and row.mark in marks:
            row.done = time.time()
            note(session, row.who, "apply reviews", expert=row.expert, reviews=row.reviews)
        elif row.done is None and row.path == path:
            session.delete(row)  # the file was not written
    done = [row for row in rows if row.done is not None]
    applied = {number for row in done if row.mark in marks for number in row.reviews}
    gone = {number for row in done for number in row.reviews} - applied
    change(session, applied, time.time())
    if lost := change(session, gone, None):
        note(session, WHO, "reviews rolled back", reviews=lost)


def note(session: Session, who: str, action: str, **detail: object) -> None:
    """Add an entry to the audit log."""
    session.add(Audit(when=time.time(), who=who, action=action, detail=detail))


def change(session: Session, numbers: Collection[int], when: float | None) -> list[int]:
    """Set `Review.applied_when` where it has to change; return the numbers of these reviews."""
    differs = Review.applied_when.is_not(None) if when is None else Review.applied_when.is_(None)
    changed: list[int] = []
    for some in parts_of(sorted(numbers)):
        changed += session.scalars(select(Review.id).where(Review.id.in_(some), differs))
    for some in parts_of(changed):
        session.execute(update(Review).where(Review.id.in_(some)).values(applied_when=when))
    return changed


def parts_of(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut numbers into lists that fit into a query."""
    for start in range(0, len(numbers), AT_ONCE):
        yield numbers[start : start + AT_ONCE]
