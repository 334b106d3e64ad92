"""Lightning's callbacks beside a task schedule: what is refused, and what is not saved."""

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

AVERAGES = "averages weights over tasks, and so changes what earlier ones learned"
SEARCHES = "takes trial steps, which the schedule would count"
REFUSED: dict[type[Callback], str] = {
    EarlyStopping: "compares losses of different tasks, and ends the fit of all: set "
    "schedule.epochs_per_task",
    StochasticWeightAveraging: AVERAGES,
    WeightAveraging: AVERAGES,
    BaseFinetuning: "trains what every task needs unchanged",
    ModelPruning: "prunes what earlier tasks learned",
    LearningRateFinder: SEARCHES,
    BatchSizeFinder: SEARCHES,
}


def check_companions(trainer: Trainer) -> None:
    """Refuse callbacks that know one task only.

    Raises:
        ConfigError: there is one; the message names it.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for refused, reason in REFUSED.items():
            if isinstance(callback, refused):
                name = type(callback).__name__
                raise ConfigError(f"trainer.callbacks: {name} {reason}. Leave it out of a fit")


def forget_timers(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Leave the time that a command took out of its checkpoint.

    A limit on time holds for each command: one that went on with its time used up would end at
    once.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer):
            states.pop(callback.state_key, None)
