"""Which task an image belongs to, by its regions.

Similar products differ in some regions, and a defect changes few: prototypes of regions see the
first and are hardly affected by the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from moleflow_pl.routing.router import ROUTERS, PrototypeRouter


def choose_with_offset(distances: Tensor, boundary: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Column of the nearest prototype, or of the second where a boundary is shifted past the image.

    The nearest, a, is chosen over the second, b, where d_b^2 - d_a^2 >= boundary(a, b).

    Args:
        distances: (N, T).
        boundary: Offset of the boundary between columns a (N,) and b (N,), a squared distance; 0
            is half-way between the prototypes.

    Example:
        >>> distances = torch.tensor([[2.0, 1.9, 5.0]])
        >>> choose_with_offset(distances, lambda *_: torch.zeros(1)).item()
        1
        >>> choose_with_offset(distances, lambda *_: torch.ones(1)).item()
        0
    """
    near = distances.topk(min(2, distances.shape[1]), largest=False)
    if near.indices.shape[1] == 1:
        return near.indices[:, 0]
    first, second = near.indices.unbind(1)
    squared = near.values.square()
    return torch.where(squared[:, 1] - squared[:, 0] >= boundary(first, second), first, second)


class RegionRouter(PrototypeRouter):
    """Chooses between the two tasks whose regions are nearest to those of an image.

    Where images of one task vary more than those of the other, half-way between the prototypes is
    not the boundary of equal error rates. The boundary here has equally many standard deviations to
    both prototypes, by the covariance of each task along the line between them, as if regions
    varied independently. A defect can make a region look like another one, so the covariance is the
    total one, over images and regions.

    `benchmarks.routing` compares numbers of regions on calibration images of similar products with
    one half destroyed. The default keeps an expert of 768 channels within 10 MB.

    Shape: features (N, R, D) -> task ids (N,).

    References: Anderson & Bahadur 1962, "Classification into two multivariate normal distributions
    with different covariance matrices", for the minimax threshold; the line is that of the pooled
    covariance.

    Example:
        >>> from moleflow_pl.routing.prototypes import TaskPrototype
        >>> router = RegionRouter()
        >>> for task, (centre, width) in enumerate([(0.0, 1.0), (8.0, 3.0)]):
        ...     prototype = TaskPrototype(1, regions=1)
        ...     prototype.update(centre + width * torch.tensor([[[-1.0]], [[1.0]]]))
        ...     router.add_prototype(task, prototype)
        >>> router.route(torch.tensor([[[1.9]], [[2.1]], [[3.9]]]))
        tensor([0, 1, 1])
    """

    def __init__(self) -> None:
        super().__init__("pooled")
        self._cache: dict[tuple[int, int], float] = {}

    def forget(self) -> None:
        """Drop what was computed from the prototypes: they have changed."""
        super().forget()
        self._cache = {}

    def choose(self, distances: Tensor) -> Tensor:
        """Task ids (N,) by `distances` (N, T), with the boundary of each pair."""
        return torch.tensor(self.tasks, device=distances.device)[
            choose_with_offset(distances, self._offsets)
        ]

    def boundaries(self, columns: Sequence[int]) -> Tensor:
        """Offsets (C, C) of the boundaries between pairs of columns, see `choose_with_offset`."""
        table = torch.zeros(len(columns), len(columns))
        for (i, a), (j, b) in combinations(enumerate(columns), 2):
            table[i, j] = self._offset(a, b)
        return table - table.T

    def _offsets(self, first: Tensor, second: Tensor) -> Tensor:
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        return torch.tensor([self._offset(a, b) for a, b in pairs], device=first.device)

    def _offset(self, a: int, b: int) -> float:
        # computed on demand: of a thousand tasks few pairs are ever neighbours
        first, second = sorted((a, b))
        if (first, second) not in self._cache:
            self._cache[first, second] = self._minimax_offset(first, second)
        return self._cache[first, second] * (1 if a < b else -1)

    def _minimax_offset(self, a: int, b: int) -> float:
        prepared = self.prepared()
        line = prepared.means[a] - prepared.means[b]
        normals = line @ prepared.roots[0].T  # of the plane half-way, in the space of features
        first, second = (deviation(self.prototypes[str(self.tasks[i])], normals) for i in (a, b))
        squared_distance = line.square().sum().item() / len(line)
        return squared_distance * (second - first) / (first + second or 1.0)


def deviation(prototype: Any, normals: Tensor) -> float:
    """Standard deviation along the normals (R, D), over the images and regions of a task."""
    mean = prototype.mean.detach().to("cpu", torch.float64)
    within_regions = ((normals @ prototype.covariance) * normals).sum()
    between_regions = (normals @ (mean - mean.mean(0)).T).square().mean(1).sum()
    return (within_regions + between_regions).clamp_min(0).sqrt().item()


@ROUTERS.add("pooled")
def pooled_router(regions: int | None) -> PrototypeRouter:
    """By the covariance that all tasks share; of regions, with the boundaries of `RegionRouter`."""
    return PrototypeRouter("pooled") if regions is None else RegionRouter()


@ROUTERS.add("none")
def no_router(regions: int | None) -> PrototypeRouter:
    """Measures distances as `pooled` does; the model sends all images to its first task."""
    return pooled_router(regions)
