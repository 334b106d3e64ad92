"""Prototypes of products, and the metrics that distances to them are measured in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from moleflow_pl.features.statistics import FeatureStatistics, shrink

TASK_RIDGE = 1e-5  # the method's own, absolute
POOLED_SHRINKAGE = 1e-4  # streaming LDA's, relative to the mean variance
OWN_SHRINKAGE = 0.1  # holds where a task has fewer images than channels, and is no one else's
Distance = Literal["pooled", "mahalanobis", "euclidean", "shrunk"]
PrototypeName = Literal["regions", "mean", "median"]


class TaskPrototype(nn.Module):
    """Mean and scatter of a task's image features.

    Args:
        dim: Channels of an image feature, D.
        regions: Regions of an image, R, if each has a feature.

    Shape: buffers `mean` (D,), or (R, D) of regions, `scatter` (D, D), about each region's own
    mean, and `count` ().

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
        """Take in the image features (N, D) of good images, or those of their regions."""
        statistics = FeatureStatistics(self.mean.shape[-1], self.regions)
        statistics.count = int(self.count)
        statistics.mean = self.mean.detach().to("cpu", torch.float64)
        statistics.scatter = self.scatter.detach().to("cpu", torch.float64)
        statistics.update(features)
        self.set(statistics)

    def set(self, statistics: FeatureStatistics) -> None:
        """Become the prototype of all that `statistics` has seen."""
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


def task_precisions(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """Inverse covariance of each task by itself, with a small ridge: (T, D, D).

    With fewer images than channels the ridge is all that holds the inverse up.
    """
    ridge = TASK_RIDGE * torch.eye(prototypes[0].mean.shape[-1], dtype=torch.float64)
    return torch.linalg.inv(torch.stack([p.covariance for p in prototypes]) + ridge)


def pooled_precision(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """Inverse of one covariance within tasks, shared by all: (1, D, D).

    All tasks' images speak of the directions in which images of one product differ, so the
    estimate holds where one task alone has too few. The matrix is shrunk towards its mean
    variance: (1 - eps) S + eps tr(S)/D I.

    References: Hayes & Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear
    Discriminant Analysis", arXiv:1909.01520, section 3.
    """
    scatter = torch.zeros_like(prototypes[0].scatter, dtype=torch.float64, device="cpu")
    for prototype in prototypes:  # one after another: a stack of a thousand fills the memory
        scatter += prototype.scatter.to("cpu", torch.float64)
    freedom = sum(p.freedom for p in prototypes)
    return torch.linalg.inv(shrink(scatter / max(freedom, 1), POOLED_SHRINKAGE))[None]


def shrunk_precisions(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """Inverse covariance of each task by itself, well shrunk: (T, D, D).

    Nothing of it depends on the other tasks, so a limit on this distance holds whatever products
    come and go.
    """
    return torch.linalg.inv(torch.stack([shrink(p.covariance, OWN_SHRINKAGE) for p in prototypes]))


def no_precision(prototypes: Sequence[TaskPrototype]) -> Tensor:
    """The unit matrix, (1, D, D): Euclidean distance."""
    return torch.eye(prototypes[0].mean.shape[-1], dtype=torch.float64)[None]


PRECISIONS: dict[str, Callable[[Sequence[TaskPrototype]], Tensor]] = {
    "pooled": pooled_precision,
    "mahalanobis": task_precisions,
    "euclidean": no_precision,
    "shrunk": shrunk_precisions,
}
