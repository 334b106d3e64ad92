"""Other Lightning callbacks in a fit: which are refused, and whose state is not saved."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from moleflow_pl.errors import ConfigError

AVERAGES = "averages weights over tasks, which changes earlier experts"
SEARCHES = "takes trial steps, which the schedule would count"
REFUSED: dict[type[Callback], str] = {
    EarlyStopping: "compares losses of different tasks, and ends the fit of all of them: set "
    "schedule.epochs_per_task",
    StochasticWeightAveraging: AVERAGES,
    WeightAveraging: AVERAGES,
    BaseFinetuning: "trains weights that every task needs unchanged",
    ModelPruning: "prunes the experts of earlier tasks",
    LearningRateFinder: SEARCHES,
    BatchSizeFinder: SEARCHES,
}


def check_callbacks(trainer: Trainer) -> None:
    """Raise ConfigError for a callback that does not work with several tasks, and name it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for refused, reason in REFUSED.items():
            if isinstance(callback, refused):
                name = type(callback).__name__
                raise ConfigError(f"trainer.callbacks: {name} {reason}. Leave it out of a fit")


def forget_timers(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Remove the elapsed time of a `Timer` from a checkpoint.

    A time limit applies to each command: a resumed one would otherwise end at once.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer):
            states.pop(callback.state_key, None)
