"""The model of a service: every process uses the newest row of the database."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from moleflow_pl._internal.hashing import file_hash
from moleflow_pl._internal.torch_threads import one_thread
from moleflow_pl.checkpoints.run_folder import LAST
from moleflow_pl.errors import CheckpointError
from moleflow_pl.inference.predictor import Predictor
from moleflow_pl.service.database import Audit, Database, Model
from moleflow_pl.service.engine import LoadedModel
from moleflow_pl.service.machine import this_machine

Stamp = tuple[int, int, int]  # of a file: number, size and time of its last change
LOADS = 3  # of a file that changes meanwhile


@dataclass(frozen=True)
class Building:
    """How the service builds models.

    Attributes:
        device: Where they go.
        backbone_weights: Where the backbone's weights are, if they have moved.
    """

    device: str = "auto"
    backbone_weights: str | None = None

    @property
    def overrides(self) -> dict[str, str]:
        """Arguments of a model that replace those of its file."""
        moved = self.backbone_weights
        return {} if moved is None else {"backbone_weights": moved}


USUAL = Building()


def checkpoint_of(path: Path) -> Path:
    """The file of a run folder or a checkpoint."""
    return path / LAST if path.is_dir() else path


def require_file(path: str | Path) -> Path:
    """The absolute path of the checkpoint in a run folder, or of a checkpoint.

    Raises:
        CheckpointError: there is no file.
    """
    file = checkpoint_of(Path(path)).absolute()
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at {file}: give a run folder or a .ckpt file")
    return file


def stamp_of(file: Path) -> Stamp | None:
    """What changes whenever a file is replaced; None if there is no file."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def load(
    path: str | Path, device: str = "auto", backbone_weights: str | None = None
) -> LoadedModel:
    """Load a model, with the digest of its file.

    Raises:
        CheckpointError: the checkpoint is missing, or cannot be used.
    """
    file = checkpoint_of(Path(path))
    for _ in range(LOADS):
        stamp = stamp_of(file)
        with one_thread():
            predictor = Predictor.load(file, device=device, backbone_weights=backbone_weights)
        model = LoadedModel(predictor, file_hash(file))
        if stamp_of(file) == stamp:
            return model
    raise CheckpointError(f"{file} changes while it is loaded: wait until it is complete")


def newest(session: Session) -> Model | None:
    """The version to use."""
    return session.scalars(select(Model).order_by(Model.id.desc()).limit(1)).first()


def publish(database: Database, path: str | Path, who: str) -> Model:
    """Let every process of a service use a model; each loads it and swaps between two batches.

    Args:
        database: The service's database.
        path: A run folder or a checkpoint, at a path that all processes can read.
        who: Who requests it, for the audit log.

    Raises:
        CheckpointError: there is no file.
    """
    file = require_file(path)
    digest = file_hash(file)
    with database.writing() as session:
        return add_version(session, file, digest, who)


def add_version(session: Session, file: Path, digest: str, who: str) -> Model:
    """Add a version, unless it is the newest."""
    last = newest(session)
    if last is not None and (last.digest, last.path) == (digest, str(file)):
        return last
    machine, when = this_machine(), time.time()
    row = Model(path=str(file), digest=digest, machine=machine, who=who, when=when)
    detail = {"path": str(file), "digest": digest}
    session.add_all([row, Audit(when=when, who=who, action="swap", detail=detail)])
    session.flush()
    return row
