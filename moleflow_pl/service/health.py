"""State of a source or a sink, and the loop that restarts it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from moleflow_pl.service.database import Database
from moleflow_pl.service.locks import BusyError, exclusive

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0  # between attempts to take over from another process
LONGEST_WAIT = 60.0  # seconds between two attempts


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
    detail: str = "starting"
    since: float = field(default_factory=time.time)

    def tell(self, ok: bool, detail: str) -> None:
        """Set the state, and log a change."""
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
    """Name of a lock; sources and images belong to one machine, sinks to all."""
    local = kind in ("source", "images")
    return f"{kind} {name} on {socket.gethostname()}" if local else f"{kind} {name}"


async def attend(
    database: Database, lock: str, health: Health, run: Callable[[], Awaitable[None]]
) -> None:
    """Run a function for ever, in one process at a time, and restart it after any failure."""
    failures = 0
    while True:
        held = exclusive(database, lock)
        entered = False
        try:
            await asyncio.to_thread(held.__enter__)
            entered = True
            failures = 0
            await run()
        except BusyError:
            health.tell(True, "another process does it")
            await asyncio.sleep(RETRY_SECONDS)
        except Exception as error:  # any failure: the service continues
            failures += 1
            health.tell(False, str(error) or type(error).__name__)
            await asyncio.sleep(wait_after(failures))
        finally:
            if entered:
                with suppress(Exception):
                    held.__exit__(None, None, None)
