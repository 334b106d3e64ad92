"""The grid of an image's patches, and the order that keeps neighbours together."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache
def z_curve(grid: tuple[int, int]) -> Tensor:
    """Row-major indices of a grid (h, w) along a Z-order curve, (h w,).

    Cells that are near each other on the curve are near each other in the grid.

    References: Morton 1966, "A computer oriented geodetic data base and a new technique in file
    sequencing": the bits of row and column alternate.

    Example:
        >>> z_curve((2, 4))
        tensor([0, 1, 4, 5, 2, 3, 6, 7])
    """
    rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    code = torch.zeros(grid, dtype=torch.long)
    for bit in range(max(grid).bit_length()):
        code |= ((columns >> bit) & 1) << (2 * bit) | ((rows >> bit) & 1) << (2 * bit + 1)
    return code.flatten().argsort()
