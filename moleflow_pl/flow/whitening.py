"""The input adapter that cannot cheat: it is invertible, and its log-determinant is counted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moleflow_pl.features.statistics import FeatureStatistics, shrink

SHRINKAGE = 1e-3  # of the covariance towards its mean variance


class WhiteningAdapter(nn.Module):
    """Whitens a product's patches by their own statistics, then scales and shifts channels.

    y = exp(log_gain) * (x - mean) W + shift, with W the symmetric inverse root of the product's
    patch covariance. What the seed's training of an adapter does not reach in 40 epochs, every
    product's patches centred, of unit variance and uncorrelated, holds before the first step. The
    map is part of the likelihood, so training gains nothing by contracting all patches.

    Args:
        channels: Width of the features, D.

    Shape: (..., D) -> (..., D).

    References: Kessy, Lewin & Strimmer 2018, "Optimal whitening and decorrelation",
    arXiv:1512.00809, section 3 (ZCA); Ledoit & Wolf 2004 for the form of the shrinkage.

    Example:
        >>> adapter = WhiteningAdapter(2)
        >>> stats = FeatureStatistics(2)
        >>> stats.update(torch.randn(1000, 2) * torch.tensor([3.0, 0.5]) + 7)
        >>> adapter.fit(stats)
        >>> adapter(torch.full((1, 2), 7.0)).abs().max().item() < 0.2
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels))
        self.register_buffer("whitening_log_det", torch.zeros(()))
        self.mean: Tensor
        self.whitening: Tensor
        self.whitening_log_det: Tensor
        self.log_gain = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def fit(self, patches: FeatureStatistics) -> None:
        """Take the statistics of a product's training patches."""
        values, vectors = torch.linalg.eigh(shrink(patches.covariance, SHRINKAGE))
        self.mean.copy_(patches.mean)
        self.whitening.copy_(vectors @ (values.rsqrt()[:, None] * vectors.T))
        self.whitening_log_det.copy_(-0.5 * values.log().sum())

    def forward(self, features: Tensor) -> Tensor:
        """Return the features as this task's expert wants them."""
        white = (features - self.mean) @ self.whitening
        return white * self.log_gain.exp() + self.shift

    def log_det(self) -> Tensor:
        """Log-determinant of the map, the same for every patch, ()."""
        return self.whitening_log_det + self.log_gain.sum()

    def inverse(self, adapted: Tensor) -> Tensor:
        """Undo `forward`."""
        white = (adapted - self.shift) * (-self.log_gain).exp()
        # symmetric: W^-1 from the right is the solution from the left
        return torch.linalg.solve(self.whitening, white, left=False) + self.mean
