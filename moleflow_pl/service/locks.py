"""A lock in the database: of several processes, on one machine or many, one applies reviews."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from moleflow_pl._internal.files import token
from moleflow_pl.errors import MoLEFlowError
from moleflow_pl.service.database import Database, Lease

SECONDS = 60.0  # after which what a killed process held is free
RENEWALS = 4  # within that time


class BusyError(MoLEFlowError):
    """Someone else is doing it."""


@contextmanager
def exclusive(database: Database, name: str) -> Iterator[None]:
    """Do something that no other process with this database does meanwhile.

    It is a row that is renewed while the block runs, so that it outlives no process for long.

    Args:
        database: The database that all of them share.
        name: What is done, such as `reviews`.

    Raises:
        BusyError: someone else does it.
    """
    holder, ended = token(), threading.Event()
    take(database, name, holder)
    renewal = threading.Thread(target=renew, args=(database, name, holder, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with database.writing() as session:
            session.execute(delete(Lease).where(Lease.name == name, Lease.holder == holder))


def take(database: Database, name: str, holder: str) -> None:
    """Take a lock that is free, or whose time has passed.

    Raises:
        BusyError: it is neither.
    """
    now = time.time()
    try:
        with database.writing() as session:
            session.execute(delete(Lease).where(Lease.name == name, Lease.until < now))
            session.add(Lease(name=name, holder=holder, until=now + SECONDS))
    except IntegrityError as error:
        raise BusyError(f"{name}: another process is at it; try again when it is done") from error


def renew(database: Database, name: str, holder: str, ended: threading.Event) -> None:
    """Keep a lock until the event."""
    while not ended.wait(SECONDS / RENEWALS):
        later = update(Lease).where(Lease.name == name, Lease.holder == holder)
        # the next time is soon
        with suppress(SQLAlchemyError), database.writing() as session:
            session.execute(later.values(until=time.time() + SECONDS))
