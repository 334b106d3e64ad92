"""What is learned when: the tasks of a run, how far each is, and its learning rate."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.calibration import Calibration, check_rate

logger = logging.getLogger(__name__)

GROUP_JOINT = "+"


def lr_factor(epoch: int, epochs: int, warmup: int = 0, final: float = 0.01) -> float:
    """Learning rate of an epoch, as a share of the configured one.

    A linear warm-up, then a cosine from 1 towards `final`. Warm-up epochs do not advance the
    cosine, whose length is all `epochs`, so it ends a little early, as the method's does.

    Args:
        epoch: Epoch within the task, from 0.
        epochs: Epochs of the task.
        warmup: Length of the warm-up in epochs.
        final: Where the cosine would end.

    References: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, eq. 5.

    Example:
        >>> [round(lr_factor(epoch, 40, warmup=2), 4) for epoch in (0, 1, 2, 3, 39)]
        [0.5, 1.0, 1.0, 0.9985, 0.0237]
    """
    if epoch < warmup:
        return (epoch + 1) / warmup
    progress = (epoch - warmup) / epochs
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class Task:
    """What is learned at once, and what is known of it.

    Attributes:
        products: The products it covers, one as a rule.
        epochs: Epochs it is to be trained for.
        epochs_done: Epochs it has been trained for.
        fit_seconds: Time spent on it, evaluation left out.
        drift: How far the mean of its features is from the first task's, in standard deviations.
        split: Hash of which images it was learned from and is tested with.
        evaluation: The evaluation after it was learned, see `moleflow_pl.evaluation`.
        calibration: Scores of good images that were held out; None where none was.
    """

    products: list[str]
    epochs: int
    epochs_done: int = 0
    fit_seconds: float = 0.0
    drift: float | None = None
    split: str | None = None
    evaluation: dict[str, Any] | None = None
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """The products' names, joined by `+`."""
        return GROUP_JOINT.join(self.products)

    @property
    def learned(self) -> bool:
        """Whether all its epochs are done."""
        return self.epochs_done >= self.epochs

    @property
    def novelty_limit(self) -> float:
        """The distance beyond which an image shows another product; NaN where none was found."""
        found = self.calibration
        return math.nan if found is None else found.novelty_limit


@dataclass
class TaskSchedule:
    """The tasks of a run, in the order of learning.

    Example:
        >>> schedule = TaskSchedule()
        >>> schedule.extend([["leather"], ["grid", "tile"]], epochs=40)
        >>> schedule.names, schedule.current
        (['leather', 'grid+tile'], 0)
    """

    tasks: list[Task] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of all tasks."""
        return [task.name for task in self.tasks]

    @property
    def current(self) -> int | None:
        """The task to be trained now; None when all are learned."""
        return next((i for i, task in enumerate(self.tasks) if not task.learned), None)

    @property
    def learned(self) -> list[int]:
        """The tasks whose training is complete."""
        return [i for i, task in enumerate(self.tasks) if task.learned]

    @property
    def todo(self) -> list[int]:
        """The tasks whose training is not complete."""
        return [i for i, task in enumerate(self.tasks) if not task.learned]

    @property
    def at_boundary(self) -> int | None:
        """The task that was completed last, if the next has not begun; None within a task."""
        current = self.current
        if current is None:
            return len(self.tasks) - 1 if self.tasks else None
        return current - 1 if current and not self.tasks[current].epochs_done else None

    @property
    def epochs(self) -> int:
        """Epochs of all tasks together."""
        return sum(task.epochs for task in self.tasks)

    @property
    def epochs_done(self) -> int:
        """Epochs that all tasks together have been trained for."""
        return sum(task.epochs_done for task in self.tasks)

    def extend(self, groups: Sequence[Sequence[str]], epochs: int) -> None:
        """Plan the tasks that `groups` names beyond those already in the schedule.

        Raises:
            ConfigError: the list does not begin with the tasks that are there.
        """
        plan = [list(group) for group in groups]
        old = [task.products for task in self.tasks]
        if plan[: len(old)] != old:
            raise ConfigError(
                f"this model's tasks are {self.names}, in this order: a task list may add to them "
                f"at its end, got {[GROUP_JOINT.join(group) for group in plan]}"
            )
        self.tasks += [Task(group, epochs) for group in plan[len(old) :]]

    def replanned(self, groups: Sequence[Sequence[str]], epochs: int) -> TaskSchedule:
        """What has begun, and a plan for the rest; tasks that have not begun may have changed.

        Raises:
            ConfigError: the list does not begin with the tasks that have begun.
        """
        schedule = TaskSchedule([task for task in self.tasks if task.epochs_done])
        schedule.extend(groups, epochs)
        return schedule

    def state(self) -> list[dict[str, Any]]:
        """Plain lists, dicts and numbers for a checkpoint."""
        return [asdict(task) for task in self.tasks]

    @classmethod
    def from_state(cls, state: Sequence[dict[str, Any]]) -> TaskSchedule:
        """Undo `state`."""
        return cls([cls._task(**task) for task in state])

    def find(self, product: str) -> int:
        """The learned task that covers a product, by the product's name or the task's.

        Raises:
            ConfigError: no learned task does.
        """
        for index in self.learned:
            if product in (self.tasks[index].name, *self.tasks[index].products):
                return index
        known = [name for index in self.learned for name in self.tasks[index].products]
        raise ConfigError(f"no product {product!r}: the model knows {known}")

    def set_false_alarm_rate(self, rate: float, product: str | None = None) -> None:
        """Move the threshold of one product, or of all learned ones, to another rate.

        Raises:
            ConfigError: the rate is none, there is no such product, or nothing was held out for it.
        """
        check_rate(rate)
        for index in self.learned if product is None else [self.find(product)]:
            found = self.tasks[index].calibration
            if found is None:
                raise ConfigError(
                    f"no good image of {self.tasks[index].name!r} was held out, so it has no "
                    "threshold: fit with data.val_fraction above 0"
                )
            found.false_alarm_rate = rate

    @staticmethod
    def _task(calibration: dict[str, Any] | None = None, **state: Any) -> Task:
        known = None if calibration is None else Calibration(**calibration)
        return Task(**state, calibration=known)
