"""Prototypes of tasks, and the precision matrices of the distances to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from moleflow_pl._internal.registry import Registry
from moleflow_pl.features.statistics import FeatureStatistics, shrink

TASK_RIDGE = 1e-5  # of the published method, absolute
POOLED_SHRINKAGE = 1e-4  # of streaming LDA, relative to the mean variance
TASK_SHRINKAGE = 0.1  # strong: a task may have fewer images than channels


class TaskPrototype(nn.Module):
    """Mean and scatter of a task's image features.

    Args:
        dim: Channels of an image feature, D.
        regions: Regions of an image, R, if each has a feature.

    Shape: buffers `mean` (D,), or (R, D) of regions, `scatter` (D, D), about the mean of each
    region, and `count` ().

    Example:
        >>> prototype = TaskPrototype(2)
        >>> prototype.update(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
        >>> prototype.mean
        tensor([1., 2.])
    """

    def __init__(self, dim: int, regions: int | None = None) -> None:
        super().__init__()
        self.regions = regions
        shape = (dim,) if regions is None else (regions, dim)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scatter", torch.zeros(dim, dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.mean: Tensor
        self.scatter: Tensor
        self.count: Tensor

    def update(self, features: Tensor) -> None:
        """Add image features (N, D) of good images, or (N, R, D) of their regions."""
        statistics = FeatureStatistics(self.mean.shape[-1], self.regions)
        statistics.count = int(self.count)
        statistics.mean = self.mean.detach().to("cpu", torch.float64)
        statistics.scatter = self.scatter.detach().to("cpu", torch.float64)
        statistics.update(features)
        self.set(statistics)

    def set(self, statistics: FeatureStatistics) -> None:
        """Replace the prototype by that of `statistics`."""
        self.count.fill_(statistics.count)
        self.mean.copy_(statistics.mean)
        self.scatter.copy_(statistics.scatter)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (D, D), in float64 on the CPU."""
        return self.scatter.to("cpu", torch.float64) / max(self.freedom, 1)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the covariance."""
        return (int(self.count) - 1) * (self.regions or 1)


Precision = Callable[[Sequence[TaskPrototype]], Tensor]
PRECISIONS: Registry[Precision] = Registry("distance")


@PRECISIONS.add("mahalanobis")
def task_precisions(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """Inverse covariance of each task, with a small ridge: (T, D, D).

    With fewer images than channels only the ridge makes the covariance invertible.
    """
    ridge = TASK_RIDGE * torch.eye(prototypes[0].mean.shape[-1], dtype=torch.float64)
    return torch.linalg.inv(torch.stack([p.covariance for p in prototypes]) + ridge)


@PRECISIONS.add("pooled")
def pooled_precision(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """Inverse of one covariance within tasks, shared by all: (1, D, D).

    Images of all tasks contribute, so the estimate is stable where one task has too few. The
    covariance is shrunk towards its mean variance: (1 - eps) S + eps tr(S)/D I.

    References: Hayes & Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear
    Discriminant Analysis", arXiv:1909.01520, section 3.
    """
    scatter = torch.zeros_like(prototypes[0].scatter, dtype=torch.float64, device="cpu")
    for prototype in prototypes:  # one at a time: a thousand need too much memory
        scatter += prototype.scatter.to("cpu", torch.float64)
    freedom = sum(p.freedom for p in prototypes)
    return torch.linalg.inv(shrink(scatter / max(freedom, 1), POOLED_SHRINKAGE))[None]


@PRECISIONS.add("shrunk")
def shrunk_precisions(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """Inverse covariance of each task, strongly shrunk: (T, D, D).

    It depends on no other task, so a limit on this distance stays valid when tasks are added or
    removed.
    """
    return torch.linalg.inv(torch.stack([shrink(p.covariance, TASK_SHRINKAGE) for p in prototypes]))


@PRECISIONS.add("euclidean")
def identity_precision(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """The identity matrix, (1, D, D): Euclidean distance."""
    return torch.eye(prototypes[0].mean.shape[-1], dtype=torch.float64)[None]
