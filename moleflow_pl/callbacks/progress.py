"""Progress of a Trainer's command, and the limits that stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.schedule import TaskSchedule

# verb: the option that limits its batches
LIMITS = {
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}


def progress(schedule: TaskSchedule) -> str:
    """Progress of a schedule in words.

    Example:
        >>> schedule = TaskSchedule()
        >>> schedule.extend([["leather"], ["grid"]], epochs=40)
        >>> progress(schedule)
        '0 of 2 tasks learned'
    """
    return f"{len(schedule.learned)} of {len(schedule.tasks)} tasks learned"


def is_trial(trainer: Trainer) -> bool:
    """Whether a Trainer only tries a few batches (`fast_dev_run`), so that nothing is saved."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def epoch_was_cut(trainer: Trainer) -> bool:
    """Whether a time or step limit ended the current epoch before its last batch."""
    return not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def blocking_limits(trainer: Trainer) -> dict[str, str]:
    """Options that would stop a resumed fit at once, with values that would not.

    A time limit is not among them: it applies to each command separately.
    """
    if is_trial(trainer):
        return {"--trainer.fast_dev_run": "false"}
    limits = {}
    if trainer.max_steps not in (None, -1):
        limits["--trainer.max_steps"] = "-1"
    if trainer.limit_train_batches == 0:
        limits["--trainer.limit_train_batches"] = "1.0"
    return limits


def require_batches(trainer: Trainer, verb: str | None) -> None:
    """Check that a limit leaves a verb a batch to inspect; Lightning would do nothing in silence.

    Raises:
        ConfigError: a limit leaves no batch.
    """
    option = LIMITS.get(verb or "")
    if option is not None and getattr(trainer, option) == 0:
        raise ConfigError(
            f"nothing was inspected: trainer.{option} is 0; leave it out, or set it to at least 1 "
            "batch"
        )


def takes_every_batch(batches: Sequence[int | float], loaders: Any) -> bool:
    """Whether a Trainer takes every batch of its loaders in spite of its limits.

    Args:
        batches: Batches taken from each loader, such as `trainer.num_test_batches`.
        loaders: One loader, or a list of them.
    """
    listed = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    return all(taken >= len(loader) for taken, loader in zip(batches, listed, strict=True))
