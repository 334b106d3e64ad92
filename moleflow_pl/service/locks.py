"""A lock in the database for several processes on one or more machines."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from moleflow_pl._internal.files import token
from moleflow_pl.errors import MoLEFlowError
from moleflow_pl.service.database import Database, Lease

SECONDS = 60.0  # after which a lock that was not renewed is free
RENEWALS = 4  # within that time


class BusyError(MoLEFlowError):
    """Another process holds the lock."""


_held: set[str] = set()  # by this process


@contextmanager
def exclusive(database: Database, name: str) -> Iterator[None]:
    """Hold a lock that all processes with this database share.

    The lock is a row that is renewed while the block runs, so that it expires soon after its
    process.

    Args:
        database: The database that all of them share.
        name: What is done, such as `reviews`.

    Raises:
        BusyError: another process holds it.
    """
    holder, ended = new_holder(), threading.Event()
    _held.add(holder)
    try:
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
    finally:
        _held.discard(holder)


def take(database: Database, name: str, holder: str) -> None:
    """Acquire a lock that is free, expired, or held by a process that is gone.

    Raises:
        BusyError: another process holds it.
    """
    now = time.time()
    try:
        with database.writing() as session:
            last = session.get(Lease, name)
            if last is not None and (last.until < now or is_gone(last.holder)):
                gone = (Lease.name == name, Lease.holder == last.holder)
                session.execute(delete(Lease).where(*gone))
            session.expunge_all()
            session.add(Lease(name=name, holder=holder, until=now + SECONDS))
    except IntegrityError as error:
        raise BusyError(
            f"{name}: another process is doing this; try again when it is done"
        ) from error


def new_holder() -> str:
    """Name of a new holder: machine, process, and a random part."""
    return f"{socket.gethostname()} {os.getpid()} {token()}"


def is_gone(holder: str) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    host, number, _ = f"{holder}  ".split(" ", 2)
    if host != socket.gethostname() or not number.isdecimal():
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


def renew(database: Database, name: str, holder: str, ended: threading.Event) -> None:
    """Keep a lock until the event."""
    while not ended.wait(SECONDS / RENEWALS):
        later = update(Lease).where(Lease.name == name, Lease.holder == holder)
        # the next time is soon
        with suppress(SQLAlchemyError), database.writing() as session:
            session.execute(later.values(until=time.time() + SECONDS))
