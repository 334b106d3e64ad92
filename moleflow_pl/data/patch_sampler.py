"""The patches of an image that a training step sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from moleflow_pl._internal.seeding import derive_generator


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


@dataclass(frozen=True)
class PatchDraw:
    """Spatially balanced random subsampling of the patches of every image.

    Every patch has the same probability, so the expected gradient is that of all patches. About one
    patch comes from each stretch of neighbours, which are much alike, so the gradient varies less
    than with independent draws. The draw for an image depends only on the seed, the purpose and the
    image's index, not on its batch.

    Attributes:
        grid: Patches of an image, (h, w).
        wanted: Number of patches to draw, without repetition.
        seed: Seed of the run.
        purpose: What the draw is for, such as a product and an epoch, see `derive_seed`.

    References: Madow & Madow 1944, "On the theory of systematic sampling, I" (equal steps from a
    random start); Stevens & Olsen 2004, "Spatially balanced sampling of natural resources" (along a
    space-filling curve, shuffled in parts).

    Example:
        >>> draw = PatchDraw(grid=(3, 3), wanted=3, seed=0, purpose=("leather", 1))
        >>> draw([0, 5]).shape
        torch.Size([2, 3])
    """

    grid: tuple[int, int]
    wanted: int
    seed: int
    purpose: tuple[str | int, ...]

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """Draw patches of the images with these indices; row-major, (B, wanted)."""
        draws = [self._draw(index) for index in indices]
        return torch.stack(draws) if draws else torch.empty(0, self.wanted, dtype=torch.long)

    def _draw(self, index: int) -> Tensor:
        generator = derive_generator(self.seed, "patches", *self.purpose, index)
        count = math.prod(self.grid)
        # at least two patches a stretch: unshuffled, the steps would make a regular pattern
        stretch = torch.arange(count) // max(round(count / self.wanted), 2)
        shuffled = (torch.rand(count, generator=generator, dtype=torch.float64) + stretch).argsort()
        start = torch.randint(count, (), generator=generator)
        # in integers: no patch twice, and all equally likely
        steps = (torch.arange(self.wanted) * count + start) // self.wanted
        return z_curve(self.grid)[shuffled[steps]]
