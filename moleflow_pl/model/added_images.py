"""Further good images for a learned expert: they extend its memory banks and its calibration.

Nothing is trained, and only the banks and the calibration of this task change.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from moleflow_pl._internal.seeding import derive_generator
from moleflow_pl.data.batches import Batch
from moleflow_pl.errors import ConfigError
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.model.learner import calibration_of
from moleflow_pl.model.task_statistics import TaskStatistics
from moleflow_pl.scoring.memory_bank import MemoryBank, bank_size, to_half_clamped

FOLDS = 5  # folds of the images for a bank; each is scored without itself in the bank
NEW_SHARE = 8  # new patches for each vector that is added to a bank

Banks = dict[str, list[Tensor]]  # vectors (M, C) of each bank, by the part of the score


@torch.no_grad()
def add_good_images(
    inspector: Inspector,
    task: int,
    seed: int,
    for_bank: Sequence[Batch] = (),
    others: Sequence[Batch] = (),
) -> None:
    """Add good images to a learned task.

    All of them become calibration images. An image in the bank would score too low, so each fifth
    of these images is scored with a bank extended by the other four fifths.

    Args:
        inspector: The model.
        task: The task.
        seed: Seed of the run.
        for_bank: Images that were taken for defective; their patches also join the memory banks,
            if the score has any.
        others: Other good images.

    Raises:
        ConfigError: the task has no calibration images.
    """
    state = inspector.schedule.tasks[task]
    calibration = state.calibration
    if calibration is None:
        raise ConfigError(
            f"{state.name!r} has no calibration images and so no threshold to recalibrate: learn "
            "it again with data.val_fraction above 0 (moleflow experts update)"
        )
    images = [with_features(inspector, batch) for batch in for_bank]
    banks = banks_of(inspector, task)
    parts = [images[fold::FOLDS] for fold in range(min(FOLDS, len(images)))]
    rate = calibration.false_alarm_rate
    for part in parts:
        rest = [image for other in parts if other is not part for image in other]
        extend_banks(inspector, task, seed, banks, rest)
        calibration = calibration.with_more(calibration_of(inspector, task, part, rate, part))
    extend_banks(inspector, task, seed, banks, images)
    rest = [with_features(inspector, batch) for batch in others]
    if rest:
        calibration = calibration.with_more(calibration_of(inspector, task, rest, rate, rest))
    state.calibration = calibration


def with_features(inspector: Inspector, batch: Batch) -> Batch:
    """A copy of a batch of images with their features, so that they are computed once."""
    features = inspector.features(batch)
    return cast(Batch, {**batch, "features": features})


def banks_of(inspector: Inspector, task: int) -> Banks:
    """The vectors of a task's memory banks, in half precision, by the part of the score."""
    if not inspector.score.with_banks:
        return {}
    memory = inspector.memory(task)
    return {
        name: [to_half_clamped(bank.vectors) for bank in cast(Iterable[MemoryBank], memory[name])]
        for name in inspector.score.with_banks
    }


def extend_banks(
    inspector: Inspector, task: int, seed: int, banks: Banks, images: Sequence[Batch]
) -> None:
    """Refill a task's memory banks from their vectors and the patches of new images.

    The banks grow by one vector for eight patches, within their size limit. A new coreset is chosen
    among old and new vectors, so that it covers new patches that differ from the old ones.

    Args:
        inspector: The model.
        task: The task.
        seed: Seed of the run.
        banks: Their vectors so far.
        images: Batches with features; without any, the banks do not change.
    """
    if not banks or not images:
        return
    name, memory = inspector.schedule.tasks[task].name, inspector.memory(task)
    scales = {part: part_memory.scale.clone() for part, part_memory in memory.items()}
    statistics = TaskStatistics(inspector, task, name, seed)
    for batch in images:
        statistics.update(batch["features"])
    old_size = next(len(vectors) for of_part in banks.values() for vectors in of_part)
    widths = {part: [v.shape[1] for v in of_part] for part, of_part in banks.items()}
    flat = [width for part in widths.values() for width in part]
    most = max(old_size, bank_size(sys.maxsize, flat, inspector.bank_mb))
    size = min(old_size + len(statistics.candidates) // NEW_SHARE, most)
    shapes = {part: [(size, width) for width in widths.get(part, [])] for part in memory}
    inspector.make_memory(task, shapes)
    columns = iter(statistics.candidates.split(flat, 1))
    for part, filled in inspector.memory(task).items():
        filled.scale.copy_(scales[part])
        for index, bank in enumerate(cast(Iterable[MemoryBank], filled)):
            old = banks[part][index]
            rows = torch.cat([old, next(columns).to(old.device)])
            bank.fill(rows, derive_generator(seed, name, "reviewed bank", part, index))
