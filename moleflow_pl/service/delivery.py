"""Delivers messages from the outbox in order, and retries until they are accepted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, joinedload

from moleflow_pl.service.database import Database, Outbox
from moleflow_pl.service.health import wait_after
from moleflow_pl.service.own_thread import OwnThread
from moleflow_pl.service.records import as_json
from moleflow_pl.service.sinks.base import RefusedError, Sink

AT_ONCE = 100  # rows read from the outbox
POLL = 0.2  # seconds between two checks of the outbox
KEPT = 24 * 3600.0  # seconds for which delivered rows stay


class Delivery:
    """Brings the rows of the outbox to a sink, at least once each.

    Args:
        database: The database with the outbox.
        sink: The receiver.
    """

    def __init__(self, database: Database, sink: Sink) -> None:
        self.database, self.sink = database, sink
        self._failures, self._ending = 0, False
        self._done: dict[int, str | None] = {}  # delivered, not noted yet: why it was refused
        self._thread = OwnThread(sink.health.name)

    async def run(self) -> None:
        """Deliver until it is cancelled; after an error it can be called again."""
        self._ending = False
        try:
            while True:
                await asyncio.sleep(await self._thread.call(self.deliver_some))
        finally:
            self._ending = True  # after the message that is being delivered
            await self._thread.call(self.sink.close)

    def deliver_some(self) -> float:
        """Deliver waiting messages, up to the first failure.

        Returns:
            Seconds until there may be more to do.
        """
        self._note()  # after an error of the database
        messages = self._waiting()
        try:
            for key, message in messages:
                if self._ending:
                    break
                self._done[key] = self._deliver(message)
        except Exception as error:  # a receiver can fail in any way
            self._failures += 1
            self.sink.health.set_state(False, f"{error or type(error).__name__}; retrying")
            self._note(failed=messages[len(self._done)][0], reason=str(error))
            return wait_after(self._failures)
        self._failures = 0
        self.sink.health.set_state(True, "delivering")
        self._note()
        return 0.0 if len(messages) == AT_ONCE else POLL

    def _deliver(self, message: dict[str, Any]) -> str | None:
        """Deliver one message; return why the receiver refused it, if it did."""
        try:
            self.sink.deliver(message)
        except RefusedError as error:
            return str(error)
        return None

    def _waiting(self) -> list[tuple[int, dict[str, Any]]]:
        mine = (Outbox.sink == self.sink.health.name, Outbox.delivered.is_(None))
        with self.database.reading() as session:
            query = select(Outbox).where(*mine).order_by(Outbox.id).limit(AT_ONCE)
            rows = session.scalars(query.options(joinedload(Outbox.inspection)))
            return [(row.id, message_of(row)) for row in rows]

    def _note(self, failed: int = 0, reason: str = "") -> None:
        done = self._done
        if not done and not failed:
            return
        with self.database.writing() as session:
            taken = [key for key, refusal in done.items() if refusal is None]
            mark(session, taken, delivered=time.time(), error=None)
            for key, refusal in done.items():
                if refusal is not None:
                    mark(session, [key], delivered=time.time(), error=refusal)
            if failed:
                mark(session, [failed], error=reason)
            old = (Outbox.sink == self.sink.health.name, Outbox.delivered < time.time() - KEPT)
            session.execute(delete(Outbox).where(*old))
        self._done = {}


def mark(session: Session, keys: Sequence[int], **values: Any) -> None:
    """Record a delivery attempt."""
    rows = update(Outbox).where(Outbox.id.in_(keys))
    session.execute(rows.values(tries=Outbox.tries + 1, **values))


def message_of(row: Outbox) -> dict[str, Any]:
    """The message for a sink."""
    if row.inspection is not None:
        return {"event": "inspection", **as_json(row.inspection)}
    return row.payload or {}
