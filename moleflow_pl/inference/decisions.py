"""From a model's results to decisions, by the calibration of each product."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moleflow_pl.data.image_forms import Channels, ImageLike
from moleflow_pl.data.images import brightness_of
from moleflow_pl.errors import ConfigError
from moleflow_pl.inference.localisation import Box, defect_mask, find_boxes
from moleflow_pl.model.inspector import Inspection
from moleflow_pl.scoring.guided_map import guides_of, pixel_map
from moleflow_pl.tasks.calibration import Calibration, Limits
from moleflow_pl.tasks.schedule import TaskSchedule
from moleflow_pl.tasks.thresholds import AlarmRates

Label = Literal["normal", "anomalous", "unknown_product"]


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """The model's decision about one image.

    Example:
        >>> Prediction("bottle", 7.25, 1.0, None, torch.zeros(2, 2), (8, 8), "normal", 9.5)
        Prediction('bottle', normal, score 7.25 of 9.5)

    Attributes:
        product: The known product that the router chose, or the one that was specified.
        score: Raw anomaly score; comparable only within a product.
        router_distance: The router's distance to the product.
        router_margin: Distance to the nearest other product minus the distance to this one:
            negative if the other is nearer, but the covariance of the two alone decided for this
            one. None without another product.
        patch_scores: Patch scores (h, w).
        size: Height and width of the image.
        label: The decision; this and the following are None if the product has no calibration.
        threshold: Scores above it are anomalous.
        normalised_score: Score mapped to 0..1, with 0.5 at the threshold for every product.
        novelty_ratio: Novelty distance divided by its limit, for the known product with the lowest
            ratio; above 1 the image shows no known product.
        pixel_threshold: Limit on a pixel's score in an anomalous image.
        median_patch_score: Median patch score of good images, where the colours of a heatmap begin.
        brightness: Mean grey level of the image as the model sees it, in 0..1.
        guide: The image, small (3, *), uint8, whose edges the map follows; None for a plain map.
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
    brightness: float | None = None
    guide: Tensor | None = None

    @property
    def anomaly_map(self) -> Tensor:
        """Raw scores of the image's pixels (H, W), computed on each access to save memory."""
        return pixel_map(self.patch_scores, self.size, self.guide)

    @property
    def mask(self) -> np.ndarray:
        """The defects' pixels (H, W), bool, see `defect_mask`; none unless it is anomalous."""
        if self.pixel_threshold is None or self.label != "anomalous":
            return np.zeros(self.size, dtype=bool)
        return defect_mask(self.anomaly_map, self.pixel_threshold)

    @cached_property
    def boxes(self) -> list[Box]:
        """Where the defects are, the worst first; none unless the image is anomalous."""
        if self.pixel_threshold is None or self.label != "anomalous":
            return []
        return find_boxes(self.anomaly_map, self.pixel_threshold)

    def plot(
        self, image: ImageLike | None = None, boxes: bool = True, channels: Channels = "rgb"
    ) -> Image.Image:
        """Draw the score map over the image, or over black, with boxes and contours of defects.

        Notebooks show it; see `draw_heatmap` for the arguments and the colours.
        """
        # the drawing library is slow to import
        from moleflow_pl.inference.heatmap import draw_heatmap

        height, width = self.size
        base = Image.new("RGB", (width, height)) if image is None else image
        return draw_heatmap(base, self, boxes, channels)

    def to_dict(self) -> dict[str, Any]:
        """Everything except the map, as plain values for JSON; infinity and NaN become None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["patch_scores"], values["guide"]
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        return {**values, "size": [*self.size], "boxes": [asdict(box) for box in self.boxes]}

    def __repr__(self) -> str:
        label = "" if self.label is None else f", {self.label}"
        limit = "" if self.threshold is None else f" of {self.threshold:.4g}"
        return f"Prediction({self.product!r}{label}, score {self.score:.4g}{limit})"


class DecisionMaker:
    """Turns a model's results into decisions, by the calibration of each product.

    Args:
        schedule: The model's tasks.
        product: The product that all images show; by default the router decides.
        thresholds: Thresholds of the image score by product or task, replacing calibrated ones.

    Raises:
        CheckpointError: no task is learned yet.
        ConfigError: no learned task has the product, or a threshold is invalid.
    """

    def __init__(
        self,
        schedule: TaskSchedule,
        product: str | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        schedule.require_learned()
        self.names = schedule.names
        self.task = None if product is None else schedule.find(product)
        self.limits: dict[int, Limits] = {}
        self.calibrations: dict[int, Calibration] = {}
        for index in schedule.learned:
            calibration = schedule.tasks[index].calibration
            if calibration is not None:
                # within a group, only a given product has thresholds of its own
                part = calibration if product is None else calibration.for_product(product)
                self.calibrations[index], self.limits[index] = part, part.limits()
        self._alarm_rates: dict[int, AlarmRates] = {}  # made when they are asked for
        for name, value in (thresholds or {}).items():
            self._set(schedule, name, value)
        # in the order of a model's distances
        self.learned = [i for i in schedule.learned if not schedule.tasks[i].replaced]
        # with NaN as its limit, a product makes no image known
        self.novelty_limits = torch.tensor(
            [schedule.tasks[index].novelty_limit for index in self.learned],
            dtype=torch.float32,
            device="cpu",
        )

    def _set(self, schedule: TaskSchedule, product: str, value: float) -> None:
        """Replace a calibrated threshold."""
        index = schedule.find(product)
        if index not in self.limits:
            raise ConfigError(
                f"{product!r} has no calibration, and so no label: fit with data.val_fraction "
                "above 0 before setting its threshold"
            )
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{product!r}: a threshold must be a finite number, got {value!r}")
        self.limits[index] = replace(self.limits[index], score=float(value))

    def decide(
        self, inspection: Inspection, sizes: Sequence[tuple[int, int]], images: Tensor | None = None
    ) -> list[Prediction]:
        """Decide about the images of a batch.

        Args:
            inspection: The model's results for them.
            sizes: Their heights and widths.
            images: The images as input of the model (B, 3, H, W), for their brightness and for maps
                that follow them.
        """
        decisions = self.decisions(inspection.task, inspection.score, inspection.novelty_distance)
        if images is not None:
            _, height, width = inspection.patch_scores.shape
            guides = guides_of(images, (height, width)).cpu()
            seen = zip(decisions, brightness_of(images).tolist(), guides, strict=True)
            for decision, brightness, guide in seen:
                decision |= {"brightness": brightness, "guide": guide}
        return [self._decide(inspection, i, size, decisions[i]) for i, size in enumerate(sizes)]

    def decisions(
        self, tasks: Tensor, scores: Tensor, novelty_distances: Tensor
    ) -> list[dict[str, Any]]:
        """Labels and limits of images, from the calibrations; empty for a task without one.

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

        None for a task without calibration; see `moleflow_pl.tasks.thresholds.AlarmRates`.
        """
        result: list[float | None] = [None] * len(scores)
        for task in set(tasks.tolist()) & set(self.calibrations):
            if task not in self._alarm_rates:
                self._alarm_rates[task] = AlarmRates(self.calibrations[task].scores)
            places = (tasks == task).nonzero()[:, 0].tolist()
            rates = self._alarm_rates[task](scores[places].tolist())
            for place, rate in zip(places, rates, strict=True):
                result[place] = rate
        return result

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
        """Label and limits of an image, from its task's calibration; empty without one."""
        limits = self.limits.get(task)
        if limits is None:
            return {}
        # a score that is NaN is not normal
        label: Label = "normal" if score <= limits.score else "anomalous"
        # a specified product is not unknown
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
