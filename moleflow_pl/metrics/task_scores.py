"""Scores of the test images of every task, gathered into the numbers of one matrix row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl._internal.distributed import gather, interleave
from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.metrics.image import auroc, average_precision, f1_max, mean_of
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.pixel import FPR_LIMIT, SAMPLE, PixelHistogram, bin_edges
from moleflow_pl.scoring.functional import Upsampling, anomaly_map

ROUTING_MODES = ("routed", "oracle")
LARGEST_MAP = 8192  # pixels of a side
CHUNK_PIXELS = 2**21  # of maps that are made at once

Values = dict[str, float | None]


@dataclass(frozen=True)
class EvaluationOptions:
    """How pixel metrics see a score map.

    Attributes:
        map_size: Side of the square map that patch scores are brought to.
        blur_sigma: Standard deviation of the Gaussian blur on it; 0 for none.
        aupro_limit: False-positive rate up to which the per-region overlap is integrated.
        upsampling: How patch scores become pixels.
    """

    map_size: int = 256
    blur_sigma: float = 4.0
    aupro_limit: float = FPR_LIMIT
    upsampling: Upsampling = "bilinear"

    def __post_init__(self) -> None:
        """Refuse what would fail only after the first task is learned.

        Raises:
            ConfigError: a value no map can be made with.
        """
        require_int("map_size", self.map_size, 1, LARGEST_MAP)
        require_number("blur_sigma", self.blur_sigma, 0, LARGEST_MAP)
        require_number("aupro_limit", self.aupro_limit, 0, 1, above=True)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a map."""
        return self.map_size, self.map_size


@dataclass
class TaskScores:
    """Scores of one task's test images, as they come in.

    What is kept of an image is small: patch scores and a mask of one bit a pixel. Maps are made
    again when they are asked for.

    Attributes:
        task: Number of the task.
        options: How maps are made.
        rows: One entry an image: what it is, where it was sent, its scores.
    """

    task: int
    options: EvaluationOptions
    rows: list[dict[str, Any]] = field(default_factory=list)
    _patches: dict[str, list[Tensor]] = field(
        default_factory=lambda: {way: [] for way in ROUTING_MODES}
    )
    _masks: list[np.ndarray | None] = field(default_factory=list)

    def update(self, batch: Mapping[str, Any], output: Mapping[str, Tensor]) -> None:
        """Take in a test batch and what `MoLEFlow.test_step` said of it."""
        columns = {
            "path": batch["path"],
            "product": batch["product"],
            "defect": batch["defect"],
            "gt_label": batch["gt_label"].tolist(),
            "routed_task": output["routed_task"].tolist(),
            "router_distance": output["router_distance"].tolist(),
            "distances": output["distances"].tolist(),
            "score": output["routed_score"].tolist(),
            "oracle_score": output["oracle_score"].tolist(),
        }
        for values in zip(*columns.values(), strict=True):
            self.rows.append(dict(zip(columns, values, strict=True)))
        self._masks += [self._packed(mask) for mask in batch["gt_mask"]]
        for way in ROUTING_MODES:
            self._patches[way] += list(output[f"{way}_map"].cpu())

    def gathered(self) -> TaskScores:
        """The scores of all ranks, in the order in which one process takes the images."""
        parts = gather(self)
        return TaskScores(
            self.task,
            self.options,
            interleave([part.rows for part in parts]),
            {way: interleave([part._patches[way] for part in parts]) for way in ROUTING_MODES},
            interleave([part._masks for part in parts]),
        )

    def maps(self, images: Sequence[int], way: str = "routed") -> Iterator[tuple[Tensor, Tensor]]:
        """Maps and masks (H, W) of some images; a mask that is not known is all normal."""
        size = max(CHUNK_PIXELS // self.options.map_size**2, 1)
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            patches = torch.stack([self._patches[way][i] for i in chunk])
            options = self.options
            made = anomaly_map(patches, options.shape, options.blur_sigma, options.upsampling)
            for i, one in zip(chunk, made, strict=True):
                yield one, self.mask(i)

    def mask(self, image: int) -> Tensor:
        """Mask (H, W) of an image at the size of a map, bool."""
        packed = self._masks[image]
        if packed is None:
            return torch.zeros(self.options.shape, dtype=torch.bool)
        bits = np.unpackbits(packed, count=self.options.map_size**2)
        return torch.from_numpy(bits).bool().reshape(self.options.shape)

    def has_mask(self, image: int) -> bool:
        """Whether anything is known of an image's pixels."""
        return self._masks[image] is not None

    def _packed(self, mask: Tensor | None) -> np.ndarray | None:
        if mask is None:
            return None
        resized = F.interpolate(mask[None, None].float().cpu(), self.options.shape, mode="nearest")
        return np.packbits(resized[0, 0].numpy() > 0)

    def metrics(self) -> dict[str, Any]:
        """Every metric by way, None where it cannot be had, and what belongs to it.

        Returns:
            `values[metric][way]`, `f1_threshold[way]` and `pixel_error_bound`.
        """
        values: dict[str, Values] = {metric: dict.fromkeys(ROUTING_MODES) for metric in METRICS}
        thresholds: Values = dict.fromkeys(ROUTING_MODES)
        labels = torch.tensor([row["gt_label"] for row in self.rows])
        for way, column in zip(ROUTING_MODES, ("score", "oracle_score"), strict=True):
            # doubles hold what the model said, to the bit
            scores = torch.tensor([row[column] for row in self.rows], dtype=torch.float64)
            values["image_auroc"][way] = auroc(scores, labels)
            values["image_ap"][way] = average_precision(scores, labels)
            best = f1_max(scores, labels)
            values["image_f1_max"][way], thresholds[way] = best or (None, None)
        bound = self._pixel_metrics(values)
        return {"values": values, "f1_threshold": thresholds, "pixel_error_bound": bound}

    def _pixel_metrics(self, values: dict[str, Values]) -> float | None:
        """Fill in the pixel metrics; returns the largest error their bins may have."""
        known = [i for i in range(len(self.rows)) if self.has_mask(i)]
        if not known:
            return None
        bound = 0.0
        same = all(torch.equal(*(self._patches[way][i] for way in ROUTING_MODES)) for i in known)
        for way in ROUTING_MODES:
            if way == "oracle" and same:
                for metric in ("pixel_auroc", "pixel_ap", "aupro"):
                    values[metric]["oracle"] = values[metric]["routed"]
                continue
            histogram = self._histogram(known, way)
            values["pixel_auroc"][way] = histogram.auroc()
            values["pixel_ap"][way] = histogram.average_precision()
            values["aupro"][way] = histogram.aupro(self.options.aupro_limit)
            bound = max(bound, *histogram.error_bounds(self.options.aupro_limit).values())
        return bound

    def _histogram(self, images: Sequence[int], way: str) -> PixelHistogram:
        defective = sum(int(self.mask(i).sum()) for i in images)
        counts = (len(images) * self.options.map_size**2, defective)
        edges = bin_edges(lambda: self.maps(images, way), counts)
        histogram = PixelHistogram(edges, every_defect=defective <= SAMPLE)
        for one, mask in self.maps(images, way):
            histogram.update(one, mask)
        return histogram

    def confusion(self, tasks: int) -> list[int]:
        """How many images were sent to each of `tasks` tasks."""
        chosen = torch.tensor(self.decisions, dtype=torch.long)
        return torch.bincount(chosen, minlength=tasks).tolist()

    @property
    def decisions(self) -> list[int]:
        """The task each image was sent to."""
        return [row["routed_task"] for row in self.rows]

    def accuracy(self, defects_only: bool = False) -> float | None:
        """Share of images, or of defective ones, sent to their own task."""
        return mean_of(
            [
                float(row["routed_task"] == self.task)
                for row in self.rows
                if row["gt_label"] or not defects_only
            ]
        )
