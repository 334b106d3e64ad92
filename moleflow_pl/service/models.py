"""The model of a service: every process uses the newest row of the database."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from moleflow_pl._internal.hashing import file_hash
from moleflow_pl.checkpoints.run_folder import LAST
from moleflow_pl.errors import CheckpointError
from moleflow_pl.inference.predictor import Predictor
from moleflow_pl.service.database import Audit, Database, Model
from moleflow_pl.service.engine import Engine, LoadedModel
from moleflow_pl.service.health import Health, wait_after

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds until another version is noticed


def checkpoint_of(path: Path) -> Path:
    """The file of a run folder or a checkpoint."""
    return path / LAST if path.is_dir() else path


# building a model draws random numbers of the process, which two threads must not interleave
BUILDING = threading.Lock()


def load(
    path: str | Path, device: str = "auto", backbone_weights: str | None = None
) -> LoadedModel:
    """Load a model, with the digest of its file.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be used.
    """
    file = checkpoint_of(Path(path))
    with BUILDING, one_thread():
        predictor = Predictor.load(file, device=device, backbone_weights=backbone_weights)
    return LoadedModel(predictor, file_hash(file))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let this thread compute without others.

    Otherwise OpenMP would keep threads for it, more than there are cores, and the threads of the
    lanes would sleep at every barrier.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def newest(session: Session) -> Model | None:
    """The version to use."""
    return session.scalars(select(Model).order_by(Model.id.desc()).limit(1)).first()


def publish(database: Database, path: str | Path, who: str, digest: str | None = None) -> Model:
    """Let every process of a service use a model; each loads it and swaps between two batches.

    Args:
        database: The service's database.
        path: A run folder or a checkpoint, at a path that all processes can read.
        who: Who requests it, for the audit log.
        digest: Of the file, if it is known.

    Raises:
        CheckpointError: there is no file.
    """
    file = checkpoint_of(Path(path)).absolute()
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at {file}: give a run folder or a .ckpt file")
    digest = digest or file_hash(file)
    with database.writing() as session:
        last = newest(session)
        if last is not None and (last.digest, last.path) == (digest, str(file)):
            return last
        row = Model(path=str(file), digest=digest, who=who, when=time.time())
        detail = {"path": str(file), "digest": digest}
        session.add_all([row, Audit(when=row.when, who=who, action="swap", detail=detail)])
    return row


class ModelWatcher:
    """Swaps the engine's model when another one is published.

    Args:
        database: Where versions are published.
        engine: Who uses them.
        current: `Model.id` of the one in use.
        device: Where models go.
        backbone_weights: Where the backbone's weights are.
    """

    def __init__(
        self,
        database: Database,
        engine: Engine,
        current: int,
        device: str = "auto",
        backbone_weights: str | None = None,
    ) -> None:
        self.database, self.engine, self.current = database, engine, current
        self.device, self.backbone_weights = device, backbone_weights
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
                self.health.tell(False, f"the earlier one stays in use: {error}")

    def look(self) -> bool:
        """Swap to a newer version; return whether there was one."""
        with self.database.reading() as session:
            row = newest(session)
        if row is None or row.id == self.current:
            return False
        model = load(row.path, self.device, self.backbone_weights)
        if model.digest != row.digest:
            raise CheckpointError(
                f"{row.path} has changed since it was published: publish it again"
            )
        self.engine.swap(model)
        self.current = row.id
        self.health.tell(True, "in use")
        logger.info("the model is now %s (%s)", row.path, row.digest[:12])
        return True
