"""The tasks of a run, their progress, and the learning rate by epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.oracle_scores import OracleScores
from moleflow_pl.tasks.thresholds import check_rate

logger = logging.getLogger(__name__)

GROUP_JOINT = "+"
MOST_PRODUCTS = 4096  # of a model


def lr_factor(epoch: int, epochs: int, warmup: int = 0, final: float = 0.01) -> float:
    """Learning rate of an epoch, as a factor of the configured one.

    A linear warm-up, then a cosine from 1 towards `final`. The cosine is `epochs` long and warm-up
    epochs do not advance it, so it stops before its end, as in the reference method.

    Args:
        epoch: Epoch within the task, from 0.
        epochs: Epochs of the task.
        warmup: Epochs of the warm-up.
        final: Value that the cosine approaches.

    References: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, eq. 5.

    Example:
        >>> [round(lr_factor(epoch, 40, warmup=2), 4) for epoch in (0, 1, 2, 3, 39)]
        [0.5, 1.0, 1.0, 0.9985, 0.0237]
    """
    if epoch < warmup:
        return (epoch + 1) / warmup
    progress = (epoch - warmup) / epochs
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def minute_in_utc() -> str:
    """The current time in the format of `Task.learned_at`."""
    return datetime.now(UTC).isoformat(" ", "minutes").removesuffix("+00:00")


@dataclass
class Task:
    """What is learned at once: one product, or a group of products.

    Attributes:
        products: Names of its products.
        epochs: Epochs to train.
        epochs_done: Epochs trained so far.
        fit_seconds: Seconds spent on training it, without evaluation.
        drift: Distance of its mean feature from the first task's, in standard deviations.
        split: Hash of its training, calibration and test images, by content.
        images: Number of its training images.
        learned_at: When it was learned, in UTC.
        oracle_scores: Of its test images; None without test images.
        replaced: Whether a newer version of it exists; then no image is routed to it.
        evaluation: The evaluation after learning it, see `metrics.task_matrix.matrix_row`.
        calibration: Scores of its calibration images; None if it has none.
        reviews: Marks of the reviews that it has learned from.
    """

    products: list[str]
    epochs: int
    epochs_done: int = 0
    fit_seconds: float = 0.0
    drift: float | None = None
    split: str | None = None
    images: int = 0
    learned_at: str | None = None
    oracle_scores: OracleScores | None = None
    replaced: bool = False
    evaluation: dict[str, Any] | None = None
    calibration: Calibration | None = None
    reviews: list[str] = field(default_factory=list)

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
        """Novelty distance beyond which an image shows another product; NaN if not calibrated."""
        return math.nan if self.calibration is None else self.calibration.novelty_limit


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
        """Index of the task to train now; None when all are learned."""
        return next((i for i, task in enumerate(self.tasks) if not task.learned), None)

    @property
    def learned(self) -> list[int]:
        """Indices of the tasks whose training is complete."""
        return [i for i, task in enumerate(self.tasks) if task.learned]

    @property
    def todo(self) -> list[int]:
        """Indices of the tasks whose training is not complete."""
        return [i for i, task in enumerate(self.tasks) if not task.learned]

    @property
    def at_boundary(self) -> int | None:
        """Index of the task completed last, if the next has not started; None within a task."""
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
        """Add the tasks of `groups` that follow those already in the schedule.

        Args:
            groups: Products of each task, starting with the tasks in the schedule.
            epochs: Epochs of each new task.

        Raises:
            ConfigError: the list does not start with the tasks in the schedule.
        """
        plan = [list(group) for group in groups]
        scheduled = [task.products for task in self.tasks]
        if plan[: len(scheduled)] != scheduled:
            raise ConfigError(
                f"this model's tasks are {self.names}, in this order: a task list may only append "
                f"to them, got {[GROUP_JOINT.join(group) for group in plan]}"
            )
        self.tasks += [Task(group, epochs) for group in plan[len(scheduled) :]]

    def replanned(self, groups: Sequence[Sequence[str]], epochs: int) -> TaskSchedule:
        """A schedule of the tasks that have started, followed by new ones for the rest.

        Args:
            groups: Products of each task, starting with the tasks that have started.
            epochs: Epochs of each new task.

        Raises:
            ConfigError: the list does not start with the tasks that have started.
        """
        schedule = TaskSchedule([task for task in self.tasks if task.epochs_done])
        schedule.extend(groups, epochs)
        return schedule

    def state(self) -> list[dict[str, Any]]:
        """Plain lists, dicts and numbers for a checkpoint."""
        return [asdict(task) for task in self.tasks]

    @classmethod
    def from_state(cls, state: Sequence[dict[str, Any]]) -> TaskSchedule:
        """Build a schedule from its `state`."""
        return cls([cls._task(**task) for task in state])

    def require_learned(self) -> None:
        """Check that there is a task to inspect images with.

        Raises:
            CheckpointError: no task is learned yet.
        """
        if self.learned:
            return
        current = None if self.current is None else self.tasks[self.current]
        progress = "it has no tasks"
        if current is not None:
            done = f"{current.epochs_done} of {current.epochs} epochs"
            progress = f"{done} of {current.name!r} are done"
        raise CheckpointError(
            f"this model has learned no task yet ({progress}): finish its fit first, with moleflow "
            "fit --ckpt_path or trainer.fit(ckpt_path=...)"
        )

    def require_any(self, groups: Sequence[Sequence[str]]) -> None:
        """Check that one of the given products is learned or planned.

        Raises:
            ConfigError: products are given, and none of them is learned or planned.
        """
        given = [product for products in groups for product in products]
        known = [product for task in self.tasks for product in task.products]
        if given and not set(given) & set(known):
            raise ConfigError(
                f"nothing was inspected: data.tasks {given} has no product of this model, which "
                f"knows {known}; name one of these, or learn the others first"
            )

    def find(self, product: str) -> int:
        """Index of the learned task with this product, or of this name.

        Raises:
            ConfigError: no learned task has the product or the name.
        """
        for index in self.learned:
            if product in (self.tasks[index].name, *self.tasks[index].products):
                return index
        known = [name for index in self.learned for name in self.tasks[index].products]
        raise ConfigError(f"no product {product!r} in this model: it knows {known}")

    def set_false_alarm_rate(self, rate: float, product: str | None = None) -> None:
        """Set the false-alarm rate of the task of one product, or of all learned tasks.

        The products of a group share one expert, and so one rate.

        Raises:
            ConfigError: the rate is out of range, no learned task has the product, or a task has no
                calibration images.
        """
        check_rate(rate)
        for index in self.learned if product is None else [self.find(product)]:
            calibration = self.tasks[index].calibration
            if calibration is None:
                raise ConfigError(
                    f"{self.tasks[index].name!r} has no calibration images and so no threshold: "
                    "fit with data.val_fraction above 0"
                )
            calibration.false_alarm_rate = rate

    def exclude(self, images: Iterable[str], product: str | None = None) -> None:
        """Permanently leave images out of their task's thresholds.

        Args:
            images: Names of images, or paths that end with them.
            product: The product that they show; by default any, if the name is unambiguous.

        Raises:
            ConfigError: a name fits no image or images of several tasks, or a product would have
                no calibration image left.
        """
        candidates = self.learned if product is None else [self.find(product)]
        excluded: dict[int, set[str]] = {}
        for image in images:
            names = {index: self._calibrated_as(index, image) for index in candidates}
            matches = {index: name for index, name in names.items() if name is not None}
            if len(matches) != 1:
                raise ConfigError(self._not_one(image, list(matches), candidates))
            for index, name in matches.items():
                excluded.setdefault(index, set()).add(name)
        left = {}
        for index, excluded_names in excluded.items():
            calibration = self.tasks[index].calibration
            assert calibration is not None  # its images matched
            left[index] = calibration.without(excluded_names)
        for index, calibration in left.items():  # only now that nothing was refused
            self.tasks[index].calibration = calibration

    def _calibrated_as(self, task: int, image: str) -> str | None:
        """The longest name of a task's calibration or training images that a path ends with."""
        calibration = self.tasks[task].calibration
        path = "/" + image.replace("\\", "/")
        names = [] if calibration is None else calibration.images + calibration.training.images
        return max((name for name in names if path.endswith(f"/{name}")), key=len, default=None)

    def _not_one(self, image: str, matches: Sequence[int], candidates: Sequence[int]) -> str:
        if not matches:
            tasks = [self.tasks[index] for index in candidates]
            names = [task.name for task in tasks]
            scored = any(task.calibration and task.calibration.training.images for task in tasks)
            kind = f"neither a calibration image nor a training image of {names}"
            if not scored:  # a training image may have this name, but has no part in a threshold
                kind = f"not a calibration image of {names}, and only these count for thresholds"
            return f"{image!r} is {kind}: give a path as in their folders"
        names = [self.tasks[index].name for index in matches]
        return f"{image!r} is an image of each of {names}: name the product too (--product)"

    @staticmethod
    def _task(
        calibration: dict[str, Any] | None = None,
        oracle_scores: dict[str, Any] | None = None,
        **state: Any,
    ) -> Task:
        restored = None if calibration is None else Calibration.from_state(calibration)
        scores = None if oracle_scores is None else OracleScores(**oracle_scores)
        return Task(**state, calibration=restored, oracle_scores=scores)
