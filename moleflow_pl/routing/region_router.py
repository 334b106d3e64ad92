"""Which task an image belongs to, by its regions.

Similar products differ in some regions, so a prototype has a mean for each region. A defect changes
few regions, so the distance bounds the influence of each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl.routing.prototypes import pooled_precision
from moleflow_pl.routing.router import (
    NEAREST,
    ROUTERS,
    PrototypeRouter,
    of_whole_prototypes,
    roots_of,
)

CLOSE = 5.0  # squared distance of two prototypes, by region and channel, below which they are close
CACHED_PAIRS = 256  # pairs whose root is cached: 1.2 MB each at 384 channels


def bounded(squared: Tensor, channels: int) -> Tensor:
    """Squared distances of regions, compressed so that large ones grow logarithmically.

    Up to constants, the negative log-likelihood of a Student t distribution instead of a
    Gaussian's. Squared distances of good regions are about the number of channels.

    Example:
        >>> bounded(torch.tensor([0.0, 0.1, 1e6]), channels=10).round()
        tensor([  0.,   0., 115.])
    """
    return channels * torch.log1p(squared / channels)


def bounded_total(difference: Tensor, root: Tensor) -> Tensor:
    """Mean over regions of their bounded squared distances, by the root of a precision.

    Shape: difference (..., R, D), root (D, D) or one for each image -> (...).
    """
    return bounded((difference @ root).square().sum(-1), root.shape[-1]).mean(-1)


class RegionRouter(PrototypeRouter):
    """Chooses the nearest task by the regions of an image; decides again between two close tasks.

    The distance to a task is the root mean square over regions by the covariance that all tasks
    share, in which a region that fits no task counts little: see `bounded`. Products unlike the two
    nearest dominate that covariance and can hide the difference between these two. So if their
    prototypes are close, the same distance by the covariance of the two alone decides,
    independently of other tasks.

    `benchmarks.ablation routing` compares numbers of regions on calibration images of similar
    products with one half destroyed. The default keeps an expert of 768 channels within 10 MB.

    Shape: features (N, R, D) -> task ids (N,).

    References: Lange, Little & Taylor 1989, "Robust statistical modeling using the t distribution";
    Hayes & Kanan 2020, arXiv:1909.01520, section 3, for the shared covariance.

    Example:
        >>> from moleflow_pl.routing.prototypes import TaskPrototype
        >>> router = RegionRouter()
        >>> for task, centre in enumerate((0.0, 8.0)):
        ...     prototype = TaskPrototype(1, regions=1)
        ...     prototype.update(centre + torch.tensor([[[-1.0]], [[1.0]]]))
        ...     router.add_prototype(task, prototype)
        >>> router.route(torch.tensor([[[1.9]], [[3.9]], [[4.1]]]))
        tensor([0, 0, 1])
    """

    def __init__(self) -> None:
        super().__init__("pooled")
        self._pairs = TensorCache(self._compute_pair, size=CACHED_PAIRS)

    def forget(self) -> None:
        """Drop what was computed from the prototypes: they have changed."""
        super().forget()
        self._pairs = TensorCache(self._compute_pair, size=CACHED_PAIRS)

    def distances(self, features: Tensor) -> Tensor:
        """Distances (N, T) of features (N, R, D) to all prototypes, in order of `tasks`.

        Computed in float64 for the nearest few, in float32 for the others; returned in float32.

        Raises:
            RuntimeError: there is no prototype yet.
        """
        prepared = self.prepared()
        # on the CPU: some devices have no float64, and the arrays are small
        rows = features.detach().to("cpu", torch.float64)
        rows = (rows.reshape(rows.shape[0], -1, rows.shape[-1]) - prepared.centre) @ prepared.roots
        channels = rows.shape[-1]
        total = bounded(prepared.squared_distances(rows), channels).mean(0)
        near = total.topk(min(NEAREST, total.shape[1]), largest=False).indices
        exact = (rows[:, None] - prepared.means[near]).square().sum(-1)
        total = total.scatter(1, near, bounded(exact, channels).mean(2).float())
        return total.sqrt().to(features.device)

    def choose(self, distances: Tensor, features: Tensor) -> Tensor:
        """Task ids (N,) of features (N, R, D) by their `distances` (N, T)."""
        tasks = self.task_ids.to(distances.device)
        if len(tasks) == 1:
            return tasks.repeat(len(distances))
        near = distances.topk(2, largest=False).indices.cpu()
        chosen, images = near[:, 0].clone(), defaultdict(list)
        for image, (a, b) in enumerate(near.tolist()):
            images[min(a, b), max(a, b)].append(image)
        for pair, rows in images.items():
            root = self._pair_root(*pair)
            if root is not None:
                chosen[rows] = self._nearer(features.cpu()[rows], near[rows], root)
        return tasks[chosen.to(tasks.device)]

    def close_pairs(self, columns: Sequence[int]) -> dict[tuple[int, int], Tensor]:
        """Pairs of places in `columns` whose tasks are close, and the roots of their precisions."""
        roots = {
            (i, j): self._pair_root(*sorted((a, b)))
            for (i, a), (j, b) in combinations(enumerate(columns), 2)
        }
        return {pair: root for pair, root in roots.items() if root is not None}

    def _nearer(self, features: Tensor, near: Tensor, root: Tensor) -> Tensor:
        """Columns (N,) of the nearer of two tasks (N, 2), by the root of a precision."""
        means = torch.stack([torch.stack([self._mean(c) for c in pair]) for pair in near.tolist()])
        totals = bounded_total(features.double()[:, None] - means, root)
        second = totals[:, 1] < totals[:, 0]
        return torch.where(second, near[:, 1], near[:, 0])

    def _prototype(self, task: int) -> Any:
        return self.prototypes[str(task)]

    def _mean(self, column: int) -> Tensor:
        prototype = self._prototype(self.tasks[column])
        return prototype.mean.detach().to("cpu", torch.float64)

    def _pair_root(self, a: int, b: int) -> Tensor | None:
        """Root of the precision of two columns a < b alone, if their prototypes are close."""
        return self._pairs.get(a * len(self.tasks) + b, ())

    def _compute_pair(self, key: int) -> Tensor | None:
        pair = divmod(key, len(self.tasks))
        prepared = self.prepared()
        apart = (prepared.means[pair[0]] - prepared.means[pair[1]]).square().mean().item()
        if apart > 4 * CLOSE:  # far by their own covariance too; most pairs end here
            return None
        tasks = [self.tasks[column] for column in pair]
        with of_whole_prototypes(tasks):
            root = roots_of(pooled_precision([self._prototype(task) for task in tasks]))[0]
        line = (self._mean(pair[0]) - self._mean(pair[1])) @ root
        return root if line.square().mean().item() < CLOSE else None


@ROUTERS.add("pooled")
def pooled_router(regions: int | None) -> PrototypeRouter:
    """The nearest prototype by the covariance of all tasks; a `RegionRouter` for regions."""
    return PrototypeRouter("pooled") if regions is None else RegionRouter()


@ROUTERS.add("none")
def no_router(regions: int | None) -> PrototypeRouter:
    """Measures distances as `pooled` does; the model sends all images to its first task."""
    return pooled_router(regions)
