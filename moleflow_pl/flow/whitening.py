"""The recommended input adapter: invertible, with its log-determinant in the likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from moleflow_pl.features.statistics import FeatureStatistics, shrink
from moleflow_pl.flow.adapters import ADAPTERS, InputAdapter
from moleflow_pl.flow.stack import Stack

SHRINKAGE = 1e-3  # of the covariance towards its mean variance


@ADAPTERS.add("whitening")
class WhiteningAdapter(InputAdapter):
    """Whitens a task's patches by their own statistics, then scales and shifts channels.

    y = exp(log_gain) * (x - mean) W + shift, with W the symmetric inverse root of the task's patch
    covariance. Before the first step the patches of every task are centred, of unit variance and
    uncorrelated. The map is part of the likelihood, so training gains nothing by contracting all
    patches.

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

    needs_statistics: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        # not eye, which on the meta device imports the compiler
        self.register_buffer("whitening", torch.zeros(channels, channels).fill_diagonal_(1))
        self.register_buffer("whitening_log_det", torch.zeros(()))
        self.mean: Tensor
        self.whitening: Tensor
        self.whitening_log_det: Tensor
        self.log_gain = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    @classmethod
    def stacked(cls, adapters: Sequence[WhiteningAdapter]) -> StackedWhitening:
        return StackedWhitening(adapters)

    def fit(self, patches: FeatureStatistics) -> None:
        """Set mean and whitening matrix from the statistics of a task's training patches."""
        values, vectors = torch.linalg.eigh(shrink(patches.covariance, SHRINKAGE))
        self.mean.copy_(patches.mean)
        self.whitening.copy_(vectors @ (values.rsqrt()[:, None] * vectors.T))
        self.whitening_log_det.copy_(-0.5 * values.log().sum())

    def forward(self, features: Tensor) -> Tensor:
        """Whiten features, then scale and shift their channels."""
        white = (features - self.mean) @ self.whitening
        return white * self.log_gain.exp() + self.shift

    def log_det(self) -> Tensor:
        """Log-determinant of the map, the same for every patch, ()."""
        return self.whitening_log_det + self.log_gain.sum()

    def inverse(self, adapted: Tensor) -> Tensor:
        """Undo `forward`."""
        white = (adapted - self.shift) * (-self.log_gain).exp()
        # W is symmetric, so W^-1 from the right is the solution from the left
        return torch.linalg.solve(self.whitening, white, left=False) + self.mean


class StackedWhitening(Stack):
    """The `WhiteningAdapter`s of several tasks.

    Shape: features (B, n, D), index (B,) -> (B, n, D).
    """

    def __init__(self, adapters: Sequence[WhiteningAdapter]) -> None:
        super().__init__(
            mean=[adapter.mean[None] for adapter in adapters],
            whitening=[adapter.whitening for adapter in adapters],
            gain=[adapter.log_gain.exp()[None] for adapter in adapters],
            shift=[adapter.shift[None] for adapter in adapters],
        )

    def forward(self, features: Tensor, index: Tensor) -> Tensor:
        """Whiten each image by the statistics of its task."""
        white = (features - self.select("mean", index)) @ self.select("whitening", index)
        return white * self.select("gain", index) + self.select("shift", index)
