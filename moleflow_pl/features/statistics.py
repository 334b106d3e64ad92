"""Exact mean and covariance of a stream of features."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import gather

VARIANCE_FLOOR = 1e-6  # added to a variance before the square root, as in the reference method


class FeatureStatistics:
    """Exact mean and scatter of all rows added, in float64, independent of their batches.

    Two streams merge exactly: with delta the difference of their means,
    S = S_a + S_b + delta delta^T n_a n_b / (n_a + n_b).

    Args:
        dim: Channels, D.
        regions: Number of regions of an image, R. A row is then the R features of one image, each
            region has a mean, and the scatter about the regions' means is summed over regions.

    References: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for
    computing sample variances", eq. 2.1.

    Example:
        >>> stats = FeatureStatistics(1)
        >>> stats.update(torch.tensor([[1.0], [2.0]]))
        >>> stats.update(torch.tensor([[6.0]]))
        >>> stats.mean.item(), stats.covariance.item()
        (3.0, 7.0)
    """

    def __init__(self, dim: int, regions: int | None = None) -> None:
        self.count, self.regions = 0, regions
        shape = (dim,) if regions is None else (regions, dim)
        self.mean = torch.zeros(shape, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add features (..., D), or (N, R, D) of regions."""
        # on the CPU: some devices have no float64
        rows = features.detach().reshape(-1, *self.mean.shape).to("cpu", torch.float64)
        if not len(rows):
            return
        batch = self._empty()
        batch.count, batch.mean = len(rows), rows.mean(0)
        centred = (rows - batch.mean).reshape(-1, rows.shape[-1])
        batch.scatter = centred.T @ centred
        self.merge(batch)

    def merge(self, other: FeatureStatistics) -> None:
        """Add all rows that `other` has seen."""
        total = self.count + other.count
        if not total:
            return
        delta = other.mean - self.mean
        weight = other.count / total
        between = delta.reshape(-1, delta.shape[-1])
        self.scatter = self.scatter + other.scatter + between.T @ between * (self.count * weight)
        self.mean = self.mean + delta * weight
        self.count = total

    def gathered(self) -> FeatureStatistics:
        """The statistics of the rows of all ranks, the same on each."""
        merged = self._empty()
        for part in gather(self):
            merged.merge(part)
        return merged

    def _empty(self) -> FeatureStatistics:
        return FeatureStatistics(self.mean.shape[-1], self.regions)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (D, D); zero for fewer than two rows."""
        return self.scatter / (max(self.count - 1, 1) * (self.regions or 1))

    @property
    def std(self) -> Tensor:
        """Standard deviation (D,), with `VARIANCE_FLOOR` added to the variance."""
        return (self.covariance.diagonal() + VARIANCE_FLOOR).sqrt()


def shrink(covariance: Tensor, share: float) -> Tensor:
    """Shrink a covariance (D, D) towards its mean variance times the identity.

    Example:
        >>> shrink(torch.diag(torch.tensor([0.0, 2.0], dtype=torch.float64)), 0.5).diagonal()
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    # an all-zero covariance (one image, or features that never vary) has no scale: use 1
    level = covariance.diagonal().mean().item() or 1.0
    return (1 - share) * covariance + share * level * torch.eye(len(covariance)).to(covariance)
