"""Scores of the test images of every task, gathered into the numbers of one matrix row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl.arguments import check_number, check_whole
from moleflow_pl.metrics import METRICS, auroc, average_precision, f1_max, mean_of
from moleflow_pl.pixel_metrics import FPR_LIMIT, SAMPLE, PixelHistogram, bin_edges
from moleflow_pl.ranks import gather, interleave
from moleflow_pl.scoring import Upsampling, anomaly_map

WAYS = ("routed", "oracle")
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
        check_whole("map_size", self.map_size, 1, LARGEST_MAP)
        check_number("blur_sigma", self.blur_sigma, 0, LARGEST_MAP)
        check_number("aupro_limit", self.aupro_limit, 0, 1, above=True)

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
    _patches: dict[str, list[Tensor]] = field(default_factory=lambda: {way: [] for way in WAYS})
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
        for way in WAYS:
            self._patches[way] += list(output[f"{way}_map"].cpu())

    def gathered(self) -> TaskScores:
        """The scores of all ranks, in the order in which one process takes the images."""
        parts = gather(self)
        return TaskScores(
            self.task,
            self.options,
            interleave([part.rows for part in parts]),
            {way: interleave([part._patches[way] for part in parts]) for way in WAYS},
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
        values: dict[str, Values] = {metric: dict.fromkeys(WAYS) for metric in METRICS}
        thresholds: Values = dict.fromkeys(WAYS)
        labels = torch.tensor([row["gt_label"] for row in self.rows])
        for way, column in zip(WAYS, ("score", "oracle_score"), strict=True):
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
        same = all(torch.equal(*(self._patches[way][i] for way in WAYS)) for i in known)
        for way in WAYS:
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


def matrix_row(
    scores: Sequence[TaskScores], tasks: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept of an evaluation, as plain lists and numbers, for checkpoint and report.

    Args:
        scores: Of those of the first `tasks` tasks whose images are there.
        tasks: Number of tasks the model has learned.
        settings: What the numbers depend on besides the weights; rows compare only if it is equal.

    Returns:
        `metrics[name][way]`, `f1_threshold[way]`, `confusion`, `decisions` and `routing`, each a
        list over tasks with None for a task whose images are gone; `settings` and
        `pixel_error_bound`.
    """
    of_task = {one.task: one for one in scores if one.rows}
    metrics = {task: one.metrics() for task, one in of_task.items()}
    every = [row | {"own": one.task} for one in of_task.values() for row in one.rows]
    bounds = [
        m["pixel_error_bound"] for m in metrics.values() if m["pixel_error_bound"] is not None
    ]

    def overall(rows: Sequence[Mapping[str, Any]]) -> float | None:
        return mean_of([float(row["routed_task"] == row["own"]) for row in rows])

    def over_tasks(defects_only: bool) -> list[float | None]:
        return [
            of_task[task].accuracy(defects_only) if task in of_task else None
            for task in range(tasks)
        ]

    def by_way(part: str, name: str | None = None) -> dict[str, list[float | None]]:
        found = {t: m[part] if name is None else m[part][name] for t, m in metrics.items()}
        return {way: [found[t][way] if t in found else None for t in range(tasks)] for way in WAYS}

    return {
        "settings": dict(settings),
        "metrics": {name: by_way("values", name) for name in METRICS},
        "f1_threshold": by_way("f1_threshold"),
        "pixel_error_bound": max(bounds, default=None),
        "confusion": [
            of_task[task].confusion(tasks) if task in of_task else [0] * tasks
            for task in range(tasks)
        ],
        "decisions": [
            of_task[task].decisions if task in of_task else None for task in range(tasks)
        ],
        "routing": {
            "accuracy": overall(every),
            "accuracy_on_defects": overall([row for row in every if row["gt_label"]]),
            "per_task": {
                "accuracy": over_tasks(defects_only=False),
                "accuracy_on_defects": over_tasks(defects_only=True),
            },
        },
    }


def zero_shot(scores: TaskScores) -> dict[str, float | None]:
    """Metrics of a task that is not learned yet, inspected by the experts there are."""
    return {metric: ways["routed"] for metric, ways in scores.metrics()["values"].items()}


def decisions_changed(rows: Sequence[Mapping[str, Any] | None]) -> list[int | None]:
    """How many images of earlier tasks are sent elsewhere since each task was added.

    Args:
        rows: A `matrix_row` for each task; None where there was no evaluation.

    Returns:
        A number a task; None for the first and where two evaluations in turn cannot be compared.

    Example:
        >>> decisions_changed([{"decisions": [[0, 0]]}, {"decisions": [[0, 1], [1]]}])
        [None, 1]
    """
    changed: list[int | None] = []
    for i, row in enumerate(rows):
        before = rows[i - 1] if i else None
        if row is None or before is None:
            changed.append(None)
            continue
        pairs = [
            (old, new)
            for old, new in zip(before["decisions"], row["decisions"], strict=False)
            if old is not None and new is not None and len(old) == len(new)
        ]
        moved = sum(a != b for old, new in pairs for a, b in zip(old, new, strict=True))
        changed.append(moved if pairs else None)
    return changed
