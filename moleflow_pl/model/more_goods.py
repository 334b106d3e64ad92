"""Further good images for an expert that is learned: its memory banks and its calibration.

Nothing is trained, and nothing but the task's own banks and calibration changes.
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

FOLDS = 5  # parts of the images for a bank, each of which is scored without itself in the bank
NEW_SHARE = 8  # further patches for each further vector in a bank

Banks = dict[str, list[Tensor]]  # vectors (M, C) of each bank, by the part of the score


@torch.no_grad()
def add_goods(
    inspector: Inspector,
    task: int,
    seed: int,
    for_bank: Sequence[Batch] = (),
    others: Sequence[Batch] = (),
) -> None:
    """Add good images to a learned task.

    All of them join the calibration images. An image in the bank scores too low there, so that each
    fifth of those is scored with the bank that the other four fifths give.

    Args:
        inspector: The model.
        task: The task.
        seed: Of the run.
        for_bank: Images that were taken for defective; their patches join the memory banks, where
            the score has some.
        others: Further images.

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
        rest = [one for other in parts if other is not part for one in other]
        extend_banks(inspector, task, seed, banks, rest)
        calibration = calibration.with_more(calibration_of(inspector, task, part, rate, part))
    extend_banks(inspector, task, seed, banks, images)
    rest = [with_features(inspector, batch) for batch in others]
    if rest:
        calibration = calibration.with_more(calibration_of(inspector, task, rest, rate, rest))
    state.calibration = calibration


def with_features(inspector: Inspector, batch: Batch) -> Batch:
    """A batch of images with their features, which are computed once."""
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
    """Fill a task's memory banks anew: from what they held, and the patches of images.

    The banks grow by one vector for eight patches, within the limit of their size; which vectors
    they then hold is chosen among all, so that they cover the new patches where these are unlike
    the old ones.

    Args:
        inspector: The model.
        task: The task.
        seed: Of the run.
        banks: What they held before.
        images: Batches with features; without any, the banks are left alone.
    """
    if not banks or not images:
        return
    name, memory = inspector.schedule.tasks[task].name, inspector.memory(task)
    scales = {part: one.scale.clone() for part, one in memory.items()}
    statistics = TaskStatistics(inspector, task, name, seed)
    for batch in images:
        statistics.update(batch["features"])
    held = next(len(one) for bank in banks.values() for one in bank)
    widths = {part: [one.shape[1] for one in bank] for part, bank in banks.items()}
    flat = [width for part in widths.values() for width in part]
    most = max(held, bank_size(sys.maxsize, flat, inspector.bank_mb))
    size = min(held + len(statistics.candidates) // NEW_SHARE, most)
    shapes = {part: [(size, width) for width in widths.get(part, [])] for part in memory}
    inspector.make_memory(task, shapes)
    columns = iter(statistics.candidates.split(flat, 1))
    for part, filled in inspector.memory(task).items():
        filled.scale.copy_(scales[part])
        for index, bank in enumerate(cast(Iterable[MemoryBank], filled)):
            old = banks[part][index]
            rows = torch.cat([old, next(columns).to(old.device)])
            bank.fill(rows, derive_generator(seed, name, "reviewed bank", part, index))
