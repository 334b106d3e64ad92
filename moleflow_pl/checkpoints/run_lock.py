"""One writer for a run folder at a time; who only reads needs no lock."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moleflow_pl._internal.files import PARTIAL, regular, write_text, writing
from moleflow_pl.checkpoints.run_folder import HOLDER, LOCK
from moleflow_pl.errors import OutputError

logger = logging.getLogger(__name__)

# by their files: a lock counts how often its process took it
HELD: dict[Path, FileLock] = {}


class RunLock:
    """An advisory lock on a folder, which the system releases when its process ends.

    A process that holds it can take it again. A file beside it says who holds it; where that is
    left over and the lock is free, its writer was killed, and what it had half written is removed.

    Args:
        folder: A run folder, or another that one command alone writes to.
        noted: Whether the folder says who holds it.
    """

    def __init__(self, folder: Path, noted: bool = True) -> None:
        self.folder, self.noted = folder, noted
        self._lock: Any = None
        self._first = False

    def acquire(self) -> None:
        """Take the lock, or fail at once.

        Raises:
            OutputError: another process holds it, or the folder cannot be written.
        """
        path = self.folder.resolve() / LOCK
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = HELD.get(path) or FileLock(path)
            self._first = self.noted and not lock.is_locked
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise OutputError(
                    f"{self.folder} is being written by {self.holder()}: wait for its end, or "
                    "choose another folder (--trainer.default_root_dir)"
                ) from None
        self._lock = HELD[path] = lock
        if self._first:
            try:
                self._take_over()
            except BaseException:
                self.release()
                raise

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if self._first:
            (self.folder / HOLDER).unlink(missing_ok=True)
        lock.release()
        if not lock.is_locked:
            HELD.pop(Path(lock.lock_file), None)

    def holder(self) -> str:
        """Who wrote that it holds the lock, in words."""
        try:
            note = json.loads(regular(self.folder / HOLDER).read_text(encoding="utf-8"))
            return f"process {note['process']} on {note['host']} since {note['started']}"
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return "another process"

    def _take_over(self) -> None:
        note = self.folder / HOLDER
        if note.exists():
            logger.info(f"{self.folder}: {self.holder()} was killed while it wrote; going on")
            remove_partial(self.folder)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"process": os.getpid(), "host": socket.gethostname(), "started": started}
        write_text(note, json.dumps(content))

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def remove_partial(folder: Path) -> None:
    """Remove what a writer that was killed left half written."""
    for pattern in (f"*{PARTIAL}", f"*/*{PARTIAL}"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def locked_for(output: Path, folder: Path) -> Iterator[None]:
    """Hold a run folder while a file is written, if there is one and the file lies in it.

    Args:
        output: The file.
        folder: The run folder.

    Raises:
        OutputError: another process holds the folder.
    """
    if not (folder.is_dir() and output.resolve().is_relative_to(folder.resolve())):
        yield
        return
    with RunLock(folder):
        yield
