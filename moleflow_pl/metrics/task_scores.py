"""Scores of the test images of a task, and their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl._internal.distributed import gather, interleave
from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.metrics.decisions import DECISION_COLUMNS
from moleflow_pl.metrics.image import auroc, average_precision, f1_max, mean_of
from moleflow_pl.metrics.names import METRICS, PIXEL_METRICS
from moleflow_pl.metrics.pixel import FPR_LIMIT, SAMPLE, PixelHistogram, bin_edges
from moleflow_pl.scoring.functional import Upsampling, anomaly_map
from moleflow_pl.scoring.guided_map import guides_of, refined

ROUTING_MODES = ("routed", "oracle")
LARGEST_MAP = 8192  # pixels of a side
CHUNK_PIXELS = 2**21  # pixels of the maps that are made at once

Values = dict[str, float | None]
MapUpsampling = Literal[Upsampling, "guided"]


@dataclass(frozen=True)
class EvaluationOptions:
    """How score maps are computed for the pixel metrics.

    Attributes:
        map_size: Side of the square map that patch scores are resized to.
        blur_sigma: Standard deviation of the map's Gaussian blur, in pixels; 0 for none.
        aupro_limit: False-positive rate up to which the per-region overlap is integrated.
        upsampling: Interpolation from patches to pixels; `guided` maps follow the image, as those
            of `predict` do.
    """

    map_size: int = 256
    blur_sigma: float = 4.0
    aupro_limit: float = FPR_LIMIT
    upsampling: MapUpsampling = "bilinear"

    def __post_init__(self) -> None:
        """Check the values before the first task is learned, not at its evaluation.

        Raises:
            ConfigError: a value is out of range.
        """
        require_int("map_size", self.map_size, 1, LARGEST_MAP)
        require_number("blur_sigma", self.blur_sigma, 0, LARGEST_MAP)
        require_number("aupro_limit", self.aupro_limit, 0, 1, above=True)

    @property
    def interpolation(self) -> Upsampling:
        """How scores are interpolated after they follow the image, if they do."""
        return "bilinear" if self.upsampling == "guided" else self.upsampling

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a map."""
        return self.map_size, self.map_size


@dataclass
class TaskScores:
    """Scores of one task's test images.

    For each image, this stores patch scores and a mask with one bit for each pixel. Maps are
    computed when they are needed.

    Attributes:
        task: Number of the task.
        options: How maps are computed.
        rows: One entry for each image: labels, routing, scores and decision.
    """

    task: int
    options: EvaluationOptions
    rows: list[dict[str, Any]] = field(default_factory=list)
    _patches: dict[str, list[Tensor]] = field(
        default_factory=lambda: {mode: [] for mode in ROUTING_MODES}
    )
    _masks: list[np.ndarray | None] = field(default_factory=list)
    _guides: list[Tensor | None] = field(default_factory=list)

    def update(
        self,
        batch: Mapping[str, Any],
        output: Mapping[str, Tensor],
        decisions: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add a test batch.

        Args:
            batch: The batch.
            output: The output of `MoLEFlow.test_step` for it.
            decisions: The decision about each image, by `DECISION_COLUMNS`; empty for an image
                without a calibration.
        """
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
        nothing = dict.fromkeys(DECISION_COLUMNS)
        decided = decisions or [{}] * len(columns["path"])
        for values, decision in zip(zip(*columns.values(), strict=True), decided, strict=True):
            self.rows.append({**dict(zip(columns, values, strict=True)), **nothing, **decision})
        self._masks += [self._packed(mask) for mask in batch["gt_mask"]]
        for mode in ROUTING_MODES:
            self._patches[mode] += list(output[f"{mode}_map"].cpu())
        self._guides += self._guides_of(batch, output["routed_map"])

    def gathered(self) -> TaskScores:
        """The scores of all ranks, in the order of a single process."""
        parts = gather(self)
        return TaskScores(
            self.task,
            self.options,
            interleave([part.rows for part in parts]),
            {mode: interleave([part._patches[mode] for part in parts]) for mode in ROUTING_MODES},
            interleave([part._masks for part in parts]),
            interleave([part._guides for part in parts]),
        )

    def maps(self, images: Sequence[int], mode: str = "routed") -> Iterator[tuple[Tensor, Tensor]]:
        """Maps and masks (H, W) of images by index; without a mask, all pixels count as normal."""
        size = max(CHUNK_PIXELS // self.options.map_size**2, 1)
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            for i, score_map in zip(chunk, self._maps_of(chunk, mode), strict=True):
                yield score_map, self.mask(i)

    def _maps_of(self, images: Sequence[int], mode: str) -> Iterable[Tensor]:
        """Maps (H, W) of a few images by index."""
        options, patches = self.options, [self.patch_scores(i, mode) for i in images]
        form = options.shape, options.blur_sigma, options.interpolation
        if options.upsampling != "guided":
            return anomaly_map(torch.stack(patches), *form)
        # one by one: what cannot follow an image stays as small as it is
        guides = [self._guides[i] for i in images]
        pairs = zip(patches, guides, strict=True)
        return (anomaly_map(refined(*pair)[None], *form)[0] for pair in pairs)

    def patch_scores(self, image: int, mode: str = "routed") -> Tensor:
        """Patch scores (h, w) of an image by index."""
        return self._patches[mode][image]

    def mask(self, image: int) -> Tensor:
        """Mask (H, W) of an image at the size of the maps, bool."""
        packed = self._masks[image]
        if packed is None:
            return torch.zeros(self.options.shape, dtype=torch.bool)
        bits = np.unpackbits(packed, count=self.options.map_size**2)
        return torch.from_numpy(bits).bool().reshape(self.options.shape)

    def has_mask(self, image: int) -> bool:
        """Whether an image has a mask."""
        return self._masks[image] is not None

    def _packed(self, mask: Tensor | None) -> np.ndarray | None:
        if mask is None:
            return None
        resized = F.interpolate(mask[None, None].float().cpu(), self.options.shape, mode="nearest")
        return np.packbits(resized[0, 0].numpy() > 0)

    def _guides_of(self, batch: Mapping[str, Any], patches: Tensor) -> Sequence[Tensor | None]:
        """What the maps of a batch's patch scores (B, h, w) follow; None where that is nothing."""
        if self.options.upsampling != "guided":
            return [None] * len(patches)
        height, width = patches.shape[1:]
        guides = guides_of(batch["image"].cpu(), (height, width))
        # only images with masks are compared with maps
        return [None if m is None else g for m, g in zip(batch["gt_mask"], guides, strict=True)]

    def metrics(self) -> dict[str, Any]:
        """Every metric for each routing mode; None where it cannot be computed.

        Returns:
            `values[metric][mode]`, `f1_threshold[mode]` and `pixel_error_bound`.
        """
        values: dict[str, Values] = {metric: dict.fromkeys(ROUTING_MODES) for metric in METRICS}
        thresholds: Values = dict.fromkeys(ROUTING_MODES)
        labels = torch.tensor([row["gt_label"] for row in self.rows])
        for mode, column in zip(ROUTING_MODES, ("score", "oracle_score"), strict=True):
            # float64 holds the model's scores exactly
            scores = torch.tensor([row[column] for row in self.rows], dtype=torch.float64)
            values["image_auroc"][mode] = auroc(scores, labels)
            values["image_ap"][mode] = average_precision(scores, labels)
            best = f1_max(scores, labels)
            values["image_f1_max"][mode], thresholds[mode] = best or (None, None)
        bound = self._pixel_metrics(values)
        return {"values": values, "f1_threshold": thresholds, "pixel_error_bound": bound}

    def _pixel_metrics(self, values: dict[str, Values]) -> float | None:
        """Fill in the pixel metrics; returns the largest error that binning may cause."""
        masked = [i for i in range(len(self.rows)) if self.has_mask(i)]
        if not masked:
            return None
        bound = 0.0
        same = all(torch.equal(*(self._patches[mode][i] for mode in ROUTING_MODES)) for i in masked)
        for mode in ROUTING_MODES:
            if mode == "oracle" and same:
                for metric in PIXEL_METRICS:
                    values[metric]["oracle"] = values[metric]["routed"]
                continue
            histogram = self._histogram(masked, mode)
            values["pixel_auroc"][mode] = histogram.auroc()
            values["pixel_ap"][mode] = histogram.average_precision()
            values["aupro"][mode] = histogram.aupro(self.options.aupro_limit)
            bound = max(bound, *histogram.error_bounds(self.options.aupro_limit).values())
        return bound

    def _histogram(self, images: Sequence[int], mode: str) -> PixelHistogram:
        defective = sum(int(self.mask(i).sum()) for i in images)
        counts = (len(images) * self.options.map_size**2, defective)
        edges = bin_edges(lambda: self.maps(images, mode), counts)
        histogram = PixelHistogram(edges, every_defect=defective <= SAMPLE)
        for score_map, mask in self.maps(images, mode):
            histogram.update(score_map, mask)
        return histogram

    def confusion(self, tasks: int) -> list[int]:
        """Number of images routed to each of `tasks` tasks."""
        chosen = torch.tensor(self.routed_tasks, dtype=torch.long)
        return torch.bincount(chosen, minlength=tasks).tolist()

    def of_products(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each product, by its name."""
        names = dict.fromkeys(row["product"] for row in self.rows)
        return {name: [row for row in self.rows if row["product"] == name] for name in names}

    @property
    def routed_tasks(self) -> list[int]:
        """The task each image was routed to."""
        return [row["routed_task"] for row in self.rows]

    def accuracy(self, defects_only: bool = False) -> float | None:
        """Routing accuracy of all images, or of the defective ones."""
        return mean_of(
            [
                float(row["routed_task"] == self.task)
                for row in self.rows
                if row["gt_label"] or not defects_only
            ]
        )
