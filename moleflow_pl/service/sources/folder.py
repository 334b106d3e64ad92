"""A watched folder: every file written into it is inspected once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from watchfiles import awatch

from moleflow_pl._internal.printable import printable
from moleflow_pl.checkpoints.run_folder import free_name
from moleflow_pl.data.images import ImageFile
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.service.database import Inspection, SeenFile
from moleflow_pl.service.engine import DeadlineError, QueueFullError
from moleflow_pl.service.health import wait_after
from moleflow_pl.service.line import Line, Upload
from moleflow_pl.service.recorder import TakenError
from moleflow_pl.service.sources.base import SOURCES, Handling, Source

SETTLED = 0.3  # seconds without a change before a file is read
PATIENCE = 10.0  # seconds after which a file that cannot be decoded counts as complete
TICK = 0.1
SCAN_SECONDS = 30.0  # between scans, since some disks do not report new files
SOON = 1.0  # seconds until the scan after the start of a watch
UNREADABLE = "Unable to decode path"  # what watchfiles says of a name that is not UTF-8
INSPECTED = "inspected"
PARTIAL = (".part", ".partial", ".tmp", ".filepart", ".crdownload")


@dataclass(frozen=True)
class FileState:
    """A file at one moment; after a change it counts as another image."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> FileState | None:
        """The state of a file; None if the path is not a file."""
        try:
            stat = path.stat()
        except OSError:
            return None
        return cls(path, stat.st_size, stat.st_mtime_ns) if path.is_file() else None

    @property
    def text(self) -> str:
        """Its path as text for the database."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return time.time() - self.modified / 1e9


@SOURCES.add("folder")
class FolderSource(Source):
    """Inspects every file in a folder once, also across restarts; waits for incomplete files.

    Inspected files are recorded in the transaction of their inspection.
    """

    def __init__(self, address: str, line: Line, handling: Handling) -> None:
        super().__init__(address, line, handling)
        self.folder = Path(address).expanduser().absolute()
        if not self.folder.is_dir():
            raise ConfigError(f"--source folder:{address}: there is no such folder")
        # with the moment at which that state was first seen, the oldest first
        self._waiting: dict[Path, tuple[FileState, float]] = {}
        self._changed: set[Path] = set()  # since the last look
        self._next_scan = float("inf")  # on the monotonic clock
        self._seen: set[tuple[str, int, int]] = set()

    async def run(self) -> None:
        """Watch the folder until cancelled."""
        self._seen = await self.thread.call(self._load_seen)
        await self.thread.call(self._scan)
        self.health.set_state(True, "watching")
        watcher = asyncio.create_task(self._watch())
        try:
            while not watcher.done():
                await self._inspect_settled()
                if time.monotonic() > self._next_scan:
                    self._next_scan = time.monotonic() + SCAN_SECONDS
                    await self.thread.call(self._scan)
                await asyncio.sleep(TICK)
            watcher.result()
            raise OSError(f"{self.folder} is gone")
        finally:
            watcher.cancel()

    async def _watch(self) -> None:
        """Note changed files; names that are not text end a watch, and the next one begins."""
        while True:
            # for files that arrive before the watch begins
            self._next_scan = min(self._next_scan, time.monotonic() + SOON)
            try:
                async for changes in awatch(self.folder, recursive=False, step=20, debounce=200):
                    self._changed |= {Path(path) for _, path in changes}
                return
            except* RuntimeError as group:
                if not all(UNREADABLE in str(error) for error in group.exceptions):
                    raise
            await asyncio.sleep(TICK)

    def _scan(self) -> None:
        """Look at all files."""
        with os.scandir(self.folder) as entries:
            self._look_at(sorted(Path(entry.path) for entry in entries))

    def _look_at(self, paths: Iterable[Path]) -> None:
        for path in paths:
            hidden = path.name.startswith(".") or path.suffix.lower() in PARTIAL
            if path.parent == self.folder and not hidden:
                self._look(path)

    def _look(self, path: Path) -> None:
        """Update a file's state; inspected and missing files stop waiting."""
        state = FileState.of(path)
        if state is None:
            self._waiting.pop(path, None)
        elif (state.text, state.size, state.modified) in self._seen:
            self._waiting.pop(path, None)
            self._put_away(state)
        elif path not in self._waiting or self._waiting[path][0] != state:
            self._wait(state)

    def _wait(self, state: FileState) -> None:
        """Let a file settle, behind all others."""
        self._waiting.pop(state.path, None)
        self._waiting[state.path] = (state, time.monotonic())

    async def _inspect_settled(self) -> None:
        changed, self._changed = self._changed, set()
        settled = await self.thread.call(self._settled, changed)
        await asyncio.gather(*map(self._inspect, settled))

    def _settled(self, changed: Iterable[Path]) -> list[FileState]:
        """The oldest files that have settled, up to a batch."""
        self._look_at(sorted(changed))
        self._look_at([*self._waiting][: self.line.engine.batch_size])
        first = [*self._waiting.values()][: self.line.engine.batch_size]
        return [state for state, since in first if time.monotonic() - since >= SETTLED]

    async def _inspect(self, state: FileState) -> None:
        """Inspect a file; retry later if the failure is not its fault."""
        try:
            content = await self.thread.call(read, state)
            if content is None:
                return
            upload = Upload(
                content, state.path.name, lambda row: [self._seen_row(state, inspection=row)]
            )
            await self.line.inspect([upload], source=self.health.name)
        except DataError as error:
            if state.age < PATIENCE:  # it may be incomplete
                self._wait(state)
                return
            row = self._seen_row(state, error=printable(error))
            with suppress(TakenError):
                await asyncio.shield(asyncio.wrap_future(self.line.recorder.add(row)))
            self.health.set_state(False, str(error))
        except (QueueFullError, DeadlineError):
            await asyncio.sleep(wait_after(1))
            return
        except TakenError:
            pass  # inspected by another process, or before a restart
        else:
            self.health.set_state(True, f"watching; last was {state.path.name}")
        self._seen.add((state.text, state.size, state.modified))
        self._waiting.pop(state.path, None)
        await self.thread.call(self._put_away, state)

    def _seen_row(
        self, state: FileState, inspection: Inspection | None = None, error: str | None = None
    ) -> SeenFile:
        return SeenFile(
            source=self.health.name, path=state.text, size=state.size, modified=state.modified,
            inspection=inspection, error=error, when=time.time(),
        )  # fmt: skip

    def _put_away(self, state: FileState) -> None:
        """Move an inspected file, if the settings say so."""
        if not self.handling.move or FileState.of(state.path) != state:
            return
        target = self.folder / INSPECTED / state.path.name
        try:
            target.parent.mkdir(exist_ok=True)
            state.path.rename(free_name(target) if target.exists() else target)
        except OSError as error:
            self.health.set_state(False, f"{state.path.name} cannot be moved: {error.strerror}")

    def _load_seen(self) -> set[tuple[str, int, int]]:
        columns = (SeenFile.path, SeenFile.size, SeenFile.modified)
        with self.line.database.reading() as session:
            rows = session.execute(select(*columns).where(SeenFile.source == self.health.name))
            return {(path, size, modified) for path, size, modified in rows}


def read(state: FileState) -> bytes | None:
    """The content of a file; None if it is no longer in that state.

    Raises:
        DataError: the file cannot be read.
    """
    content = ImageFile.read(state.path).content
    return content if FileState.of(state.path) == state else None
