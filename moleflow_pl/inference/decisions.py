"""From what a model computed to decisions, by the calibration of each product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from moleflow_pl.inference.localisation import Box, find_boxes, pixel_map
from moleflow_pl.model.inspector import Inspection
from moleflow_pl.tasks.calibration import AlarmRates, Calibration, Limits
from moleflow_pl.tasks.schedule import TaskSchedule

Label = Literal["normal", "anomalous", "unknown_product"]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        product: The known product that the router chose, or the one that was asked for.
        score: Raw anomaly score; compare it within a product.
        router_distance: The router's distance to the product.
        router_margin: Distance to the nearest other product, less that to this one: below 0 where
            the other is nearer, and the covariance of the two alone decided otherwise. None where
            there is no other.
        patch_scores: (h, w).
        size: Height and width of the image.
        label: The decision; it and what follows are None where the product has no calibration.
        threshold: Scores above it are anomalous.
        normalised_score: The same for every product, in 0..1, 0.5 at the threshold.
        novelty_ratio: Distance to the good images of the product they are most like, divided by
            that product's limit; beyond 1 the image is of no known product.
        pixel_threshold: Limit on a pixel's score.
        median_patch_score: Score of an ordinary patch of the product, where a heatmap begins.
    """

    product: str
    score: float
    router_distance: float
    router_margin: float | None
    patch_scores: Tensor
    size: tuple[int, int]
    label: Label | None = None
    threshold: float | None = None
    normalised_score: float | None = None
    novelty_ratio: float | None = None
    pixel_threshold: float | None = None
    median_patch_score: float | None = None

    @property
    def anomaly_map(self) -> Tensor:
        """Raw scores of the image's pixels (H, W), computed anew each time: they may be many."""
        return pixel_map(self.patch_scores, self.size)

    @cached_property
    def boxes(self) -> list[Box]:
        """Where pixels exceed the pixel threshold, the worst first."""
        limit = self.pixel_threshold
        return [] if limit is None else find_boxes(self.anomaly_map, limit)


class DecisionMaker:
    """Turns what a model computed into decisions, by the calibration of each product.

    Args:
        schedule: The model's tasks.
        product: The product that all images show; by default the router decides.

    Raises:
        CheckpointError: no task is learned yet.
        ConfigError: there is no such product.
    """

    def __init__(self, schedule: TaskSchedule, product: str | None = None) -> None:
        schedule.require_learned()
        self.names = schedule.names
        self.task = None if product is None else schedule.find(product)
        self.limits: dict[int, Limits] = {}
        self.calibrations: dict[int, Calibration] = {}
        for index in schedule.learned:
            calibration = schedule.tasks[index].calibration
            if calibration is not None:
                # within a group, only a given product has thresholds of its own
                part = calibration if product is None else calibration.of(product)
                self.calibrations[index], self.limits[index] = part, part.limits()
        self._alarm_rates: dict[int, AlarmRates] = {}  # made when they are asked for
        self.learned = list(schedule.learned)  # in the order of a model's distances
        # a product without a limit makes no image known
        self.novelty_limits = torch.tensor(
            [schedule.tasks[index].novelty_limit for index in self.learned], dtype=torch.float32
        )

    def decide(self, inspection: Inspection, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Decide about the images of a batch, of these heights and widths."""
        decisions = self.decisions(inspection.task, inspection.score, inspection.novelty_distance)
        return [self._decide(inspection, i, size, decisions[i]) for i, size in enumerate(sizes)]

    def decisions(
        self, tasks: Tensor, scores: Tensor, novelty_distances: Tensor
    ) -> list[dict[str, Any]]:
        """What calibrations add to the numbers of images; nothing where a task has none.

        Args:
            tasks: The task whose expert scored each image (B,).
            scores: Image scores (B,).
            novelty_distances: (B, T), as of an `Inspection`.
        """
        ratios = novelty_distances.cpu() / self.novelty_limits
        lowest = ratios.nan_to_num(torch.inf).amin(1)
        columns = (tasks.tolist(), scores.tolist(), lowest.tolist())
        return [self._decision(*image) for image in zip(*columns, strict=True)]

    def alarm_rates(self, tasks: Tensor, scores: Tensor) -> list[float | None]:
        """The lowest false-alarm rate at which each image (B,) would be called defective.

        None where a task has no calibration; see `moleflow_pl.tasks.calibration.AlarmRates`.
        """
        found: list[float | None] = [None] * len(scores)
        for task in set(tasks.tolist()) & set(self.calibrations):
            if task not in self._alarm_rates:
                self._alarm_rates[task] = AlarmRates(self.calibrations[task].scores)
            places = (tasks == task).nonzero()[:, 0].tolist()
            rates = self._alarm_rates[task](scores[places].tolist())
            for place, rate in zip(places, rates, strict=True):
                found[place] = rate
        return found

    def _decide(
        self, inspection: Inspection, i: int, size: tuple[int, int], decision: dict[str, Any]
    ) -> Prediction:
        task, score = int(inspection.task[i]), inspection.score[i].item()
        others = inspection.distances[i].tolist()
        distance = others.pop(self.learned.index(task))
        return Prediction(
            product=self.names[task],
            score=score,
            router_distance=distance,
            router_margin=min(others) - distance if self.task is None and others else None,
            patch_scores=inspection.patch_scores[i].cpu(),
            size=size,
            **decision,
        )

    def _decision(self, task: int, score: float, novelty_ratio: float) -> dict[str, Any]:
        """What a calibration adds to an image's numbers; nothing without one."""
        limits = self.limits.get(task)
        if limits is None:
            return {}
        # a score that is NaN is not normal
        label: Label = "normal" if score <= limits.score else "anomalous"
        # a given product is known
        if self.task is None and novelty_ratio > 1:
            label = "unknown_product"
        return {
            "label": label,
            "threshold": limits.score,
            "normalised_score": limits.normalise(score),
            "novelty_ratio": novelty_ratio,
            "pixel_threshold": limits.pixel,
            "median_patch_score": limits.median_patch_score,
        }
