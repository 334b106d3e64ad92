"""One writer for a run folder at a time; reading needs no lock."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moleflow_pl._internal.files import (
    is_partial,
    regular,
    replaceable,
    require_folder,
    write_text,
    writing,
)
from moleflow_pl.checkpoints.run_folder import HOLDER, LOCK
from moleflow_pl.errors import OutputError

logger = logging.getLogger(__name__)

# by lock file: a lock counts how often its process acquired it
HELD: dict[Path, FileLock] = {}


class RunLock:
    """An advisory lock on a folder, which the system releases when its process ends.

    A process that holds it can acquire it again. A file beside it names the holder; if that file
    is left over while the lock is free, its writer was killed, and partial files are removed.

    Args:
        folder: A run folder, or another folder with one writer.
        noted: Whether a file names the holder.
    """

    def __init__(self, folder: Path, noted: bool = True) -> None:
        self.folder, self.noted = folder, noted
        self._lock: Any = None
        self._first = False

    def acquire(self) -> None:
        """Acquire the lock, or fail at once.

        Raises:
            OutputError: another process holds the lock, or the folder is not writable.
        """
        require_folder(self.folder)
        if self.noted:
            replaceable(self.folder / HOLDER)
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
        """Release the lock, if it is held."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if self._first:
            (self.folder / HOLDER).unlink(missing_ok=True)
        lock.release()
        if not lock.is_locked:
            HELD.pop(Path(lock.lock_file), None)

    def holder(self) -> str:
        """The holder of the lock according to its file, in words."""
        try:
            note = json.loads(regular(self.folder / HOLDER).read_text(encoding="utf-8"))
            return f"process {note['process']} on {note['host']} since {note['started']}"
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return "another process"

    def _take_over(self) -> None:
        note = self.folder / HOLDER
        if note.exists():
            logger.info(
                f"{self.folder}: {self.holder()} was killed while writing; its partial files are "
                "removed"
            )
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
    """Remove the partial files of a writer that was killed, and nothing of anyone else.

    An export checks its files in a folder with a temporary name, in which they have their own.
    """
    for path in filter(is_partial, [*folder.glob("*"), *folder.glob("*/*")]):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        exported = path.name.rsplit(".", 2)[0]
        for file in path.iterdir():
            if file.name.startswith(exported) and not file.is_dir():
                file.unlink()
        with suppress(OSError):  # something else is in it
            path.rmdir()


@contextmanager
def locked_for(output: Path, folder: Path) -> Iterator[None]:
    """Lock a run folder while a file is written, if it exists and the file lies in it.

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
