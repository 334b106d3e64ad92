"""A lock in the database for several processes on one or more machines."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from moleflow_pl._internal.files import token
from moleflow_pl.errors import MoLEFlowError
from moleflow_pl.service.database import Database, Lease
from moleflow_pl.service.machine import this_machine

SECONDS = 60.0  # after which a lock that was not renewed is free
RENEWALS = 4  # within that time


class BusyError(MoLEFlowError):
    """Another process holds the lock."""


_held: set[str] = set()  # by this process


@contextmanager
def exclusive(database: Database, name: str) -> Iterator[str]:
    """Hold a lock that all processes with this database share.

    The lock is a row that is renewed while the block runs, so that it expires soon after its
    process.

    Args:
        database: The database that all of them share.
        name: What is done, such as `reviews`.

    Yields:
        The holder's name, for `require_held`.

    Raises:
        BusyError: another process holds it.
    """
    holder, ended = new_holder(), threading.Event()
    _held.add(holder)
    try:
        acquire(database, name, holder)
        renewal = threading.Thread(target=renew, args=(database, name, holder, ended), daemon=True)
        renewal.start()
        try:
            yield holder
        finally:
            ended.set()
            renewal.join()
            with database.writing() as session:
                session.execute(delete(Lease).where(Lease.name == name, Lease.holder == holder))
    finally:
        _held.discard(holder)


def acquire(database: Database, name: str, holder: str) -> None:
    """Acquire a lock that is free, expired, or held by a process that is gone.

    Raises:
        BusyError: another process holds it.
    """
    try:
        with database.writing() as session:
            now = database.now(session)
            last = session.get(Lease, name)
            if last is not None and (last.until < now or is_gone(last.holder)):
                expired = (Lease.name == name, Lease.holder == last.holder)
                session.execute(delete(Lease).where(*expired))
            session.expunge_all()
            session.add(Lease(name=name, holder=holder, until=now + SECONDS))
    except IntegrityError as error:
        raise BusyError(
            f"{name}: another process is doing this; try again when it is done"
        ) from error


def require_held(session: Session, name: str, holder: str) -> None:
    """Check within a transaction that a lock is still held.

    Raises:
        BusyError: the lock has expired, and another process may hold it.
    """
    last = session.get(Lease, name)
    if last is None or last.holder != holder:
        raise BusyError(f"{name}: this took so long that another process may do it; try again")


def new_holder() -> str:
    """Name of a new holder: machine, process, and a random part."""
    return f"{this_machine()} {os.getpid()} {token()}"


def is_gone(holder: str) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    host, number, _ = f"{holder}  ".split(" ", 2)
    if host != this_machine() or not number.isdecimal():
        return False
    if int(number) == os.getpid():  # in a restarted container, process numbers repeat
        return holder not in _held
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def other_machines(session: Session, database: Database) -> list[str]:
    """The other machines on which a service runs now; each holds some lock."""
    query = select(Lease.holder).where(Lease.until >= database.now(session))
    return sorted({holder.split(" ")[0] for holder in session.scalars(query)} - {this_machine()})


def renew(database: Database, name: str, holder: str, ended: threading.Event) -> None:
    """Keep a lock until the event."""
    while not ended.wait(SECONDS / RENEWALS):
        later = update(Lease).where(Lease.name == name, Lease.holder == holder)
        # the next time is soon
        with suppress(SQLAlchemyError), database.writing() as session:
            session.execute(later.values(until=database.now(session) + SECONDS))
