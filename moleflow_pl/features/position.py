"""Position code: a two-dimensional sine-cosine grid that is added to the features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moleflow_pl.errors import ConfigError

BASE_WAVELENGTH = 1e4


def sincos_grid(height: int, width: int, channels: int) -> Tensor:
    """Sine-cosine code of every cell of a grid.

    The first half of the channels encodes the column, the second half the row. Within a half, sine
    and cosine alternate with wavelengths that grow geometrically from 2 pi to 2 pi 10^4.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        channels: Length of a code, a multiple of 4.

    Shape: (height, width, channels).

    Raises:
        ConfigError: `channels` is not a multiple of 4.

    References: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; in two dimensions, CFlow-AD
    (Gudovskiy et al. 2021, arXiv:2107.12571, section 3.4).

    Example:
        >>> sincos_grid(2, 3, 8)[1, 2, 0].item() == math.sin(2)
        True
    """
    check_channels(channels)
    half = channels // 2
    steps = torch.arange(0, half, 2, dtype=torch.float64)
    frequency = torch.exp(steps * (-math.log(BASE_WAVELENGTH) / half))

    def axis(length: int) -> Tensor:
        phase = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(1)

    columns = axis(width).expand(height, width, half)
    rows = axis(height)[:, None].expand(height, width, half)
    return torch.cat((columns, rows), dim=-1)


def check_channels(channels: int) -> None:
    """Check that features of this width can have a position code.

    Raises:
        ConfigError: `channels` is not a multiple of 4.
    """
    if channels % 4:
        raise ConfigError(
            f"a position code needs a multiple of 4 channels, got {channels}: choose other "
            "backbone layers, a target_embed_dim that 4 divides, or use_position=False"
        )


class PositionalGrid(nn.Module):
    """Adds the sine-cosine grid to features; it has no trainable parameters.

    Shape: (B, h, w, D) -> (B, h, w, D).
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.empty(0), persistent=False)
        self.grid: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Return `features` plus the code of each patch's position."""
        return features + self._code(features, features.shape[1:3])

    def at_patches(self, features: Tensor, patches: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the features of some patches of each image plus their codes.

        Args:
            features: (B, n, D).
            patches: Row-major indices of the patches in the grid, (B, n).
            shape: Height and width of the whole grid.
        """
        return features + self._code(features, shape).flatten(0, 1)[patches]

    def _code(self, features: Tensor, shape: Sequence[int]) -> Tensor:
        grid_shape = (*shape, features.shape[-1])
        if self.grid.shape != grid_shape or self.grid.dtype != features.dtype:
            self.grid = sincos_grid(*grid_shape).to(features.device, features.dtype)
        return self.grid


class NoPosition(nn.Module):
    """Leaves features unchanged: the flow does not see positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Return `features`."""
        return features

    def at_patches(self, features: Tensor, patches: Tensor, shape: Sequence[int]) -> Tensor:
        """Return `features`."""
        return features
