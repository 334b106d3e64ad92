"""How far a command of the Trainer came, and what kept it from its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from moleflow_pl.tasks.schedule import TaskSchedule


def progress(schedule: TaskSchedule) -> str:
    """How many tasks are learned, in words.

    Example:
        >>> schedule = TaskSchedule()
        >>> schedule.extend([["leather"], ["grid"]], epochs=40)
        >>> progress(schedule)
        '0 of 2 tasks learned'
    """
    return f"{len(schedule.learned)} of {len(schedule.tasks)} tasks learned"


def is_trial(trainer: Trainer) -> bool:
    """Whether a Trainer only tries a few batches (`fast_dev_run`): nothing of it is a result."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def epoch_was_cut(trainer: Trainer) -> bool:
    """Whether a limit on time or steps ended the current epoch before its last batch."""
    return not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def blocking_limits(trainer: Trainer) -> dict[str, str]:
    """Options of a fit that would stop it at once if it went on, with values that do not.

    A limit on time is none of them: it holds for each command anew.
    """
    if is_trial(trainer):
        return {"--trainer.fast_dev_run": "false"}
    limits = {}
    if trainer.max_steps not in (None, -1):
        limits["--trainer.max_steps"] = "-1"
    if trainer.limit_train_batches == 0:
        limits["--trainer.limit_train_batches"] = "1.0"
    return limits


def saw_all(batches: Sequence[int | float], loaders: Any) -> bool:
    """Whether a Trainer took every batch of its loaders, whatever its limits are.

    Args:
        batches: What it takes of each, such as `trainer.num_test_batches`.
        loaders: One loader, or a list of them.
    """
    listed = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    return all(taken >= len(loader) for taken, loader in zip(batches, listed, strict=True))
