"""State of a source or a sink, and the loop that restarts it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from moleflow_pl._internal.printable import printable_lines
from moleflow_pl.service.database import Database
from moleflow_pl.service.locks import BusyError, exclusive
from moleflow_pl.service.machine import this_machine
from moleflow_pl.service.own_thread import OwnThread

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0  # between attempts to take over from another process
LONGEST_WAIT = 60.0  # seconds between two attempts
ELSEWHERE, STARTING = "another process does it", "starting"


@dataclass
class Health:
    """State of a part of the service, shown by the page and `/readyz`.

    Attributes:
        name: The part.
        ok: Whether it works.
        detail: What it does, or why it does not work.
        since: Start of this state.
    """

    name: str
    ok: bool = True
    detail: str = STARTING
    since: float = field(default_factory=time.time)

    def set_state(self, ok: bool, detail: str) -> None:
        """Set the state, and log a change."""
        detail = printable_lines(detail)  # databases do not accept surrogates
        if ok != self.ok:
            logger.info("%s: %s", self.name, detail)
            self.since = time.time()
        self.ok, self.detail = ok, detail

    def as_json(self) -> dict[str, Any]:
        """For `/readyz`."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "since": self.since}


def wait_after(failures: int) -> float:
    """Seconds until the next attempt, after consecutive failures.

    Example:
        >>> [wait_after(n) for n in (1, 2, 3, 20)]
        [0.5, 1.0, 2.0, 60.0]
    """
    return min(LONGEST_WAIT, 0.25 * 2.0 ** min(failures, 20))


def without_password(address: str) -> str:
    """An address without user name and password, for display.

    Example:
        >>> without_password("mqtt://me:secret@broker:1883/line")
        'mqtt://broker:1883/line'
    """
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def lock_name(kind: str, name: str) -> str:
    """Name of a lock; sources, images and learning belong to one machine, sinks to all."""
    local = kind in ("source", "images", "learning")
    return f"{kind} {name} on {this_machine()}" if local else f"{kind} {name}"


@dataclass(frozen=True)
class Background:
    """A part of the service that runs in the background, in one process at a time.

    Attributes:
        health: Its state.
        lock: Name of the lock of the process that runs it.
        run: Runs it for ever.
    """

    health: Health
    lock: str
    run: Callable[[], Awaitable[None]]


async def attend(database: Database, part: Background) -> None:
    """Run a part in one process at a time, and restart it after any failure.

    The wait before a restart grows with each failure, until the part has run for as long as the
    longest wait.
    """
    health, failures = part.health, 0
    while True:
        began = time.monotonic()
        try:
            async with holding(database, part.lock):
                if health.ok:
                    health.set_state(True, "running")
                await part.run()
        except BusyError:
            health.set_state(True, ELSEWHERE)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        except Exception as error:  # any failure: the service continues
            health.set_state(False, str(error) or type(error).__name__)
        failures = 1 if time.monotonic() - began > LONGEST_WAIT else failures + 1
        await asyncio.sleep(wait_after(failures))


@asynccontextmanager
async def holding(database: Database, lock: str) -> AsyncIterator[None]:
    """As `exclusive`, for the event loop: the database is asked in another thread."""
    held, thread = exclusive(database, lock), OwnThread(lock)
    try:
        await thread.call(held.__enter__)
        yield
    finally:
        with suppress(Exception):
            await thread.call(held.__exit__, None, None, None)
