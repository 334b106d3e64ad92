"""From image to decision as one graph, for any number and size of images.

It holds the router and all experts. Each image is scored only with the weights of one expert,
selected from a stack, so that many experts cost as much as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_pl.errors import ConfigError
from moleflow_pl.export.resizing import Resizing
from moleflow_pl.export.stacked import StackedChoice, StackedFlow, StackedMemory, StackedNovelty
from moleflow_pl.features.region_of_interest import scores_inside
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.distances import measure_distances
from moleflow_pl.scoring.functional import Upsampling, anomaly_map
from moleflow_pl.scoring.patch_scores import PatchFeatures

LABELS = ("normal", "anomalous", "unknown_product", "no_threshold")


class InspectionGraph(nn.Module):
    """Inspects images as `MoLEFlow` does, with tensors alone, for any runtime.

    Args:
        model: A trained model.
        tasks: The tasks to choose from; by default all that have a prototype.
        map_size: Side of the anomaly map.
        upsampling: How patch scores become the map; the blur of an evaluation is for its metrics.

    Shape: image (B, 3, H, W), uint8 RGB -> map (B, map_size, map_size) and score (B,), in the
    unit of the patch scores; product (B,), an index into `tasks`; router distance (B,) to
    it; and novelty ratio (B,), above 1 for an image that shows none of the products.

    Raises:
        ConfigError: no task has been learned.
    """

    def __init__(
        self,
        model: Inspector,
        tasks: Sequence[int] | None = None,
        map_size: int = 256,
        upsampling: Upsampling = "bilinear",
    ) -> None:
        super().__init__()
        known = model.router.tasks if model.routes else model.router.tasks[:1]
        self.tasks = known if tasks is None else list(tasks)
        if not self.tasks:
            raise ConfigError("this model has learned no product: finish the fit of a task first")
        self.regions = [model.interest.for_task(task) for task in self.tasks]
        self.columns = [model.router.tasks.index(task) for task in self.tasks]
        self.extractor, self.position, self.router = model.extractor, model.position, model.router
        self.choice = StackedChoice(model.router, self.columns)
        self.flow = StackedFlow(model.flow, self.tasks)
        limits = [model.schedule.tasks[task].novelty_limit for task in self.tasks]
        # a task that was stopped before its end has no novelty distances
        finished = model.novelty_router.tasks == model.router.tasks
        self.novelty_ratio: StackedNovelty | None = None
        if finished:
            self.novelty_ratio = StackedNovelty(
                model.novelty_router, self.tasks, limits, self.regions
            )
        self.score = model.score
        with torch.no_grad():
            self.memory = StackedMemory(model, self.tasks)
        self.image_features = model.image_features
        self.image_score = model.image_score
        self.map_options: dict[str, Any] = {
            "size": (map_size, map_size), "sigma": 0.0, "upsampling": upsampling,
        }  # fmt: skip
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Map, score, product, router distance and novelty ratio of each image."""
        features = self.extractor(image)
        joined = self.extractor.groups.joined(features)
        view, distances = measure_distances(
            self.router, self.image_features, joined, self.regions, self.columns
        )
        index = self.choice(view, distances)
        distance = distances.gather(1, index[:, None])[:, 0]
        patch_scores = self.patch_scores(features, joined, index)
        score, patch_scores = scores_inside(patch_scores, self.image_score, self.regions, index)
        pixels = anomaly_map(patch_scores, **self.map_options)
        if self.novelty_ratio is None:
            return pixels, score, index, distance, torch.full_like(distance, torch.inf)
        return pixels, score, index, distance, self.novelty_ratio(joined, distances)

    def patch_scores(self, features: Tensor, joined: Tensor, index: Tensor) -> Tensor:
        """Scores (B, h, w) of features by the experts of tasks at `index` (B,).

        Args:
            features: Features (B, h, w, W).
            joined: What the flow sees of them (B, h, w, D), without position.
            index: Places in `tasks`.
        """
        given = PatchFeatures(self.position(joined), partial(self.extractor.groups.split, features))
        parts = self.score.part_scores(self.flow, given, index, self.memory)
        return self.score.total(parts, lambda name: self.memory.scale(name, index))


class ImageGraph(nn.Module):
    """What a file holds: from images of any size to labels.

    Args:
        graph: Inspects images of the model's size.
        thresholds: Of the score, for each of the graph's tasks; NaN where there is none.

    Shape: image (B, H, W, 3), uint8 RGB -> what `graph` gives, and label (B,), an index into
    `LABELS`.
    """

    def __init__(self, graph: InspectionGraph, thresholds: Sequence[float]) -> None:
        super().__init__()
        self.resizing, self.inspection = Resizing(graph.extractor.image_size), graph
        # as they were calibrated: rounded to float32, one could lie on the other side of a score
        self.register_buffer("thresholds", torch.tensor(thresholds, dtype=torch.float64))
        self.thresholds: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map, score, product, router distance, novelty ratio and label of each image."""
        outputs = self.inspection(self.resizing(image))
        _, score, product, _, novelty_ratio = outputs
        threshold = self.thresholds[product]
        places = range(len(LABELS))
        normal, anomalous, unknown, missing = (
            torch.full((), i, device=score.device) for i in places
        )
        # by `<=`, so that a number that is NaN is never normal
        label = torch.where(score.double() <= threshold, normal, anomalous)
        label = torch.where(threshold.isnan(), missing, label)
        return *outputs, torch.where(novelty_ratio <= 1, label, unknown)
