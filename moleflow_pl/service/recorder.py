"""Commits rows before requests are answered, those of many requests in one transaction."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from moleflow_pl.errors import OutputError
from moleflow_pl.service.database import Base, Database, SeenFile, reason_of

MOST = 256  # entries in a transaction


class TakenError(OutputError):
    """Another process has already recorded the file."""


@dataclass(frozen=True)
class Entry:
    """Rows that belong together, and a future for their commit."""

    rows: Sequence[Base]
    done: Future[None] = field(default_factory=Future)


class Recorder:
    """A thread that writes rows; entries that arrive during a commit share the next one.

    Args:
        database: Where to write.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="record", daemon=True)
        self._thread.start()

    def add(self, *rows: Base) -> Future[None]:
        """Write rows, all or none; they have their `id` once the future is done.

        The future raises `TakenError` for a row that already exists and must be unique, and
        `OutputError` if the database cannot be written.
        """
        entry = Entry(rows)
        self._entries.put(entry)
        return entry.done

    @property
    def alive(self) -> bool:
        """Whether rows are written."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Write the waiting rows, and end."""
        self._entries.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._entries.get()) is not None:
            entries, ended = [first], False
            while not ended and len(entries) < MOST and not self._entries.empty():
                entry = self._entries.get()
                if entry is None:
                    ended = True
                else:
                    entries.append(entry)
            # from here on nobody can cancel them
            self._write([one for one in entries if one.done.set_running_or_notify_cancel()])
            if ended:
                return

    def _write(self, entries: Sequence[Entry]) -> None:
        """Write entries in one transaction, or each alone if that fails."""
        try:
            with self.database.writing() as session:
                connection = session.connection()
                for row in (row for entry in entries for row in entry.rows):
                    insert_row(connection, row)
        except SQLAlchemyError as error:
            if len(entries) > 1 and isinstance(error, IntegrityError):
                for entry in entries:
                    self._write([entry])
                return
            for entry in entries:
                entry.done.set_exception(failure(error))
        except BaseException as error:  # a failure must not end the thread
            for entry in entries:
                entry.done.set_exception(error)
        else:
            for entry in entries:
                entry.done.set_result(None)


def insert_row(connection: Connection, row: Any) -> None:
    """Insert a row whose inspection, if it has one, is already inserted; then it has its `id`.

    Without the session's unit of work, which takes longer than the commit.
    """
    given, table = vars(row), row.__table__
    # without the number of an attempt that failed: another process may have it by now
    names = {column.key for column in table.columns} - {"id"}
    values = {name: given[name] for name in names & given.keys()}
    if given.get("inspection") is not None:
        values["inspection_id"] = given["inspection"].id
    inserted: Any = connection.execute(insert(table), values).inserted_primary_key
    row.id = inserted.id


def failure(error: SQLAlchemyError) -> OutputError:
    """The error for a failed commit."""
    if isinstance(error, IntegrityError) and SeenFile.__tablename__ in reason_of(error):
        return TakenError(f"it is already in the database: {reason_of(error)}")
    return OutputError(f"cannot write the database: {reason_of(error)}")
