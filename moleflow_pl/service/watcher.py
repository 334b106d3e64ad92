"""Follows the model: another version in the database, or a change of its file."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from moleflow_pl._internal.hashing import file_hash
from moleflow_pl.errors import CheckpointError
from moleflow_pl.service.applications import LOCK, adopt
from moleflow_pl.service.database import Database, Model
from moleflow_pl.service.engine import Engine
from moleflow_pl.service.health import Health, wait_after
from moleflow_pl.service.locks import BusyError, exclusive
from moleflow_pl.service.machine import this_machine
from moleflow_pl.service.models import USUAL, Building, Stamp, load, newest, stamp_of

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds until a change is noticed


class ModelWatcher:
    """Swaps the engine's model when another one is published, or when its file has changed.

    Args:
        database: Where versions are published.
        engine: Who uses them.
        current: `Model.id` of the one in use.
        seen: Stamp of its file when it was loaded.
        options: How models are built.
    """

    def __init__(
        self,
        database: Database,
        engine: Engine,
        current: int,
        seen: Stamp | None = None,
        options: Building = USUAL,
    ) -> None:
        self.database, self.engine, self.current, self.seen = database, engine, current, seen
        self.options = options
        self.health = Health("model", detail="in use")

    async def run(self) -> None:
        """Check for ever; if a model cannot be loaded, the earlier one stays in use."""
        failures = 0
        while True:
            await asyncio.sleep(POLL if not failures else max(POLL, wait_after(failures)))
            try:
                await asyncio.to_thread(self.look)
                failures = 0
            except Exception as error:
                failures += 1
                self.health.set_state(False, f"the earlier one stays in use: {error}")

    def look(self) -> bool:
        """Swap to a newer version; return whether there was one."""
        with self.database.reading() as session:
            row = newest(session)
        if row is None:
            return False
        stamp = stamp_of(Path(row.path))
        if (row.id, stamp) == (self.current, self.seen):
            self.health.set_state(True, "in use")
            return False
        try:
            row = self._agreed(row, stamp)
        except BusyError:  # who changes the file publishes it
            return False
        swapped = row.digest != self.engine.model.digest
        if swapped:
            model = load(row.path, self.options.device, self.options.backbone_weights)
            if model.digest != row.digest:
                raise CheckpointError(f"{row.path} changed while it was loaded")
            self.engine.swap(model)
            logger.info("the model is now %s (%s)", row.path, row.digest[:12])
        self.current, self.seen = row.id, stamp
        self.health.set_state(True, "in use")
        return swapped

    def _agreed(self, row: Model, stamp: Stamp | None) -> Model:
        """The version that the file holds; it is published if the file has changed.

        Raises:
            BusyError: another process is changing it.
            CheckpointError: the file is missing, or another machine's.
        """
        path, foreign = Path(row.path), row.machine != this_machine()
        if foreign and stamp is None and row.digest == self.engine.model.digest:
            return row  # a copy of it is in use here
        if stamp is None:
            raise CheckpointError(f"no checkpoint at {path}")
        if file_hash(path) == row.digest:
            return row
        if foreign and stamp == self.seen:
            raise CheckpointError(
                f"{path} of this machine is not the version that {row.machine} published: "
                "put the run in a folder that all machines share"
            )
        with exclusive(self.database, LOCK):
            return adopt(self.database, path)
