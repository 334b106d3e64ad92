"""Earlier versions of an expert: files of the run, `experts/versions/NAME~N.safetensors`."""

from __future__ import annotations

import logging
from pathlib import Path

from moleflow_pl.checkpoints.expert_edits import (
    Checkpoint,
    add,
    extract,
    index_of,
    learned_schedule,
    remove,
    require_same_base,
    set_aside,
    with_products,
)
from moleflow_pl.checkpoints.experts import Expert, taking_over
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.errors import ConfigError

logger = logging.getLogger(__name__)


def versions_of(run: RunFolder, name: str) -> list[int]:
    """Return the numbers of an expert's saved versions, in ascending order."""
    parts = [path.stem.rpartition("~") for path in run.versions.glob("*~*.safetensors")]
    return sorted(int(n) for of, _, n in parts if of == name and n.isascii() and n.isdecimal())


def free_version(run: RunFolder, name: str) -> int:
    """Return the number for the next saved version."""
    return max(versions_of(run, name), default=0) + 1


def version_number(run: RunFolder, name: str, number: int | None) -> int:
    """Return the number of a saved version, by default of the newest.

    Raises:
        ConfigError: there is no such version.
    """
    versions = versions_of(run, name)
    chosen = versions[-1] if number is None and versions else number
    if chosen not in versions:
        raise ConfigError(
            f"no version {number or ''} of {name!r} in {run.versions}: the saved ones are "
            f"{versions}"
        )
    return chosen


def move_versions(run: RunFolder, old: str, new: str) -> list[int]:
    """Rename an expert's saved versions, numbered after those that already have the new name.

    Returns:
        Their new numbers.
    """
    numbers = []
    for number in versions_of(run, old):
        numbers.append(free_version(run, new))
        run.expert(old, number).rename(run.expert(new, numbers[-1]))
    return numbers


def roll_back(checkpoint: Checkpoint, name: str, number: int | None, run: RunFolder) -> None:
    """Replace an expert by one of its saved versions, under its current names.

    Raises:
        CheckpointError: the file cannot be used, or belongs to another base or backbone.
        ConfigError: there is no such version, or no such expert.
    """
    schedule = learned_schedule(checkpoint)
    products = schedule.tasks[index_of(schedule, name)].products
    number = version_number(run, name, number)
    with taking_over(run.expert(name, number)) as path:
        expert = Expert.load(path)
        names = dict(zip(expert.task.products, products, strict=True))
        expert.task = with_products(expert.task, names)
        replace(checkpoint, expert, run)
    learned = expert.task.learned_at
    logger.info(f"{name} is version {number} again{f', learned {learned}' if learned else ''}")


def save_version(expert: Expert, run: RunFolder) -> Path:
    """Save an expert beside its earlier versions."""
    name = expert.task.name
    path = run.expert(name, free_version(run, name))
    expert.save(path)
    logger.info(f"saved the {name} expert that was in the model as {path}")
    return path


def replace(checkpoint: Checkpoint, expert: Expert, run: RunFolder) -> None:
    """Replace the expert of the same name, which is saved as a version.

    Raises:
        CheckpointError: the expert belongs to another base or backbone.
    """
    require_same_base(checkpoint, expert)
    number = int(save_version(extract(checkpoint, expert.task.name), run).stem.rpartition("~")[2])
    aside = set_aside(checkpoint, expert.task.products, number)
    # added before the old one is removed: a model must have an expert
    add(checkpoint, expert)
    remove(checkpoint, aside)
