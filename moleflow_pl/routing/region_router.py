"""Which product an image shows, by what its regions look like.

Twins differ in some places, and a defect is in few: prototypes of regions see the first and are
hardly moved by the second. `MoLEFlow` takes the fair boundary where its router is `pooled`; other
distances send an image to the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl.routing.router import PrototypeRouter

SIDE = 4  # regions along each side of an image
REGIONS = SIDE * SIDE


def region_means(features: Tensor, side: int = SIDE) -> Tensor:
    """Mean of each region's patches, brought to length one: length is where shade and contrast are.

    Shape: (B, h, w, D) -> (B, side^2, D), whatever h and w.

    Example:
        >>> region_means(torch.tensor([3.0, 4.0]).expand(1, 16, 16, 2))[0, 0]
        tensor([0.6000, 0.8000])
    """
    directions = F.normalize(features, dim=-1)
    pooled = F.adaptive_avg_pool2d(directions.permute(0, 3, 1, 2), side)
    return pooled.flatten(2).transpose(1, 2)


def choose_with_offset(distances: Tensor, boundary: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Column of the nearest prototype, or of the second where the boundary lies beyond the image.

    Args:
        distances: (N, T).
        boundary: How much nearer, squared, the second may be and the first is still the one, for
            two columns (N,) and (N,).

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
    """Sends an image to one of the two products whose regions are nearest to its own.

    Half way between two prototypes is no fair boundary where images of one product vary more than
    those of the other: it lies where both are equally many deviations away, each by its own
    covariance along the line between them, as if regions varied independently. A defect makes a
    region look like another one, so that covariance is the whole one, over images and regions.

    Lengths, that covariance and the number of regions were chosen by held-out good images of twins
    of which a half was destroyed, the number among those with which an expert of 768 channels stays
    within 10 MB; `benchmarks.routing` measures them beside others.

    Shape: features (N, R, D) -> task ids (N,).

    References: Anderson & Bahadur 1962, "Classification into two multivariate normal distributions
    with different covariance matrices", for the minimax threshold; the line is that of the pooled
    covariance.

    Example:
        >>> from moleflow_pl.router import TaskPrototype
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
        self._boundaries: dict[tuple[int, int], float] = {}

    def forget(self) -> None:
        """Drop what was prepared from the prototypes: they have changed."""
        super().forget()
        self._boundaries = {}

    def choose(self, distances: Tensor) -> Tensor:
        """Task that an image's `distances` (N, T) speak for: ids (N,)."""
        return torch.tensor(self.tasks, device=distances.device)[
            choose_with_offset(distances, self._between)
        ]

    def boundaries(self, columns: Sequence[int]) -> Tensor:
        """How much nearer, squared, another prototype than a task's own may be, of some (C, C)."""
        table = torch.zeros(len(columns), len(columns))
        for (i, a), (j, b) in combinations(enumerate(columns), 2):
            table[i, j] = self._boundary(a, b)
        return table - table.T

    def _between(self, first: Tensor, second: Tensor) -> Tensor:
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        return torch.tensor([self._boundary(a, b) for a, b in pairs], device=first.device)

    def _boundary(self, a: int, b: int) -> float:
        # kept when first asked for: of a thousand products few pairs are ever neighbours
        first, second = sorted((a, b))
        if (first, second) not in self._boundaries:
            self._boundaries[first, second] = self._minimax_offset(first, second)
        return self._boundaries[first, second] * (1 if a < b else -1)

    def _minimax_offset(self, a: int, b: int) -> float:
        known = self.prepared()
        line = known.means[a] - known.means[b]
        normals = line @ known.roots[0].T  # of the plane half way, in the space of features
        wide = [deviation(self.prototypes[str(self.tasks[one])], normals) for one in (a, b)]
        apart = line.square().sum().item() / len(line)
        return apart * (wide[1] - wide[0]) / (sum(wide) or 1.0)


def deviation(prototype: Any, normals: Tensor) -> float:
    """How far a product's images and regions lie about along the normals (R, D)."""
    mean = prototype.mean.detach().to("cpu", torch.float64)
    own = ((normals @ prototype.covariance) * normals).sum()
    places = (normals @ (mean - mean.mean(0)).T).square().mean(1).sum()
    return (own + places).clamp_min(0).sqrt().item()
