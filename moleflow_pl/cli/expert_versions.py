"""Earlier versions of an expert: numbered files in the run folder, `experts/NAME~N.safetensors`."""

from __future__ import annotations

import logging
from pathlib import Path

from moleflow_pl.checkpoints.expert_edits import (
    Checkpoint,
    add,
    extract,
    remove,
    rename,
    require_same_base,
)
from moleflow_pl.checkpoints.experts import Expert
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.schedule import GROUP_JOINT

logger = logging.getLogger(__name__)


def versions_of(run: RunFolder, name: str) -> list[int]:
    """Return the numbers of an expert's saved versions, in ascending order."""
    numbers = [path.stem.removeprefix(f"{name}~") for path in run.experts.glob("*~*.safetensors")]
    return sorted(int(number) for number in numbers if number.isdigit())


def free_version(run: RunFolder, name: str) -> int:
    """Return the number that the next version to be saved gets."""
    return max(versions_of(run, name), default=0) + 1


def version_file(run: RunFolder, name: str, number: int | None) -> Path:
    """Return the file of a saved version, by default the newest.

    Raises:
        ConfigError: there is no such version.
    """
    versions = versions_of(run, name)
    chosen = versions[-1] if number is None and versions else number
    if chosen not in versions:
        raise ConfigError(f"no version {number or ''} of {name!r} in {run.experts}: {versions}")
    return run.expert(name, chosen)


def save_version(expert: Expert, run: RunFolder) -> Path:
    """Save an expert beside its earlier versions."""
    name = expert.task.name
    path = run.expert(name, free_version(run, name))
    expert.save(path)
    logger.info(f"saved the {name} expert that was in the model as {path}")
    return path


def replace(checkpoint: Checkpoint, expert: Expert, run: RunFolder) -> None:
    """Put an expert in the place of the one with its name, which is saved as a version.

    Raises:
        CheckpointError: the expert belongs to another base or backbone.
    """
    require_same_base(checkpoint, expert)
    number = save_version(extract(checkpoint, expert.task.name), run).stem.rpartition("~")[2]
    aside = {product: f"{product}~{number}" for product in expert.task.products}
    for product, name in aside.items():
        rename(checkpoint, product, name)
    # added before the old one goes: a model always has an expert
    add(checkpoint, expert)
    remove(checkpoint, GROUP_JOINT.join(aside.values()))
