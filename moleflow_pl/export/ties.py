"""How far rounding may move the scores of patches, so that two runtimes need not agree on them.

A soft projection is on the five nearest vectors of a memory bank. Where the fifth and the sixth are
equally far, the last bit of a feature decides which of them counts, and the score jumps.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.runtimes import Answers
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.scoring.bank_search import projection_range
from moleflow_pl.scoring.functional import anomaly_map


class RangeSearch:
    """Searches a task's memory banks for the least or the largest distances that ties allow.

    Args:
        inspector: The model.
        task: The task.
        end: 0 for the least distances, 1 for the largest.
    """

    def __init__(self, inspector: Inspector, task: int, end: int) -> None:
        self.counted = inspector.interest.places(task)
        self.inspector, self.task, self.end = inspector, task, end

    def __call__(self, name: str, vectors: Tensor, task: Any, bank: int) -> Tensor:
        """Distances (B, h, w) of vectors (B, h, w, C), as a `PartSearch`."""
        stored = self.inspector.search_banks(self.task)[name][bank]
        return projection_range(vectors, stored, self.counted)[self.end]


class Ties:
    """Settles differences between a file and its model that ties explain.

    Args:
        model: The model.
        features: Features (B, h, w, W) of the compared images.
        graph: The graph in the file.
    """

    def __init__(self, model: Inspector, features: Tensor, graph: InspectionGraph) -> None:
        self.model, self.features, self.graph = model, features, graph
        self.jumps = cache(self._jumps)

    def _jumps(self, index: int) -> Tensor:
        """How far ties may move the scores (B, h, w) by an expert, by its index in the graph."""
        task = self.graph.tasks[index]
        least, largest = (
            self.model.patch_scores(self.features, task, RangeSearch(self.model, task, end))
            for end in (0, 1)
        )
        return largest - least

    def settle(self, actual: Answers, expected: Answers, images: range) -> Answers:
        """The answers of a file, without the part of each difference that ties explain.

        Args:
            actual: Of the file.
            expected: Of the model.
            images: The images, by their indices.
        """
        pairs = zip(images, expected["product"].tolist(), strict=True)
        jumps = torch.stack([self.jumps(index)[i] for i, index in pairs])
        # neither the tail mean nor a quantile moves farther than the patch that moves farthest
        most = {
            "map": anomaly_map(jumps, **self.graph.map_options).abs(),
            "score": jumps.amax((1, 2)),
        }
        return actual | {name: settled(actual[name], expected[name], most[name]) for name in most}


def settled(actual: Tensor, expected: Tensor, most: Tensor) -> Tensor:
    """Values moved towards those expected, each by at most so much.

    Example:
        >>> settled(torch.tensor([1.5, 3.0]), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor([1., 2.])
    """
    moved = actual - (actual - expected).clamp(-most, most)
    return torch.where(actual == expected, actual, moved)  # also where both are infinite
