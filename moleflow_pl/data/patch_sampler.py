"""Which patches of an image a training step sees."""

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
    """Places of a grid (h, w) in an order in which neighbours are near each other, (h w,).

    References: Morton 1966, "A computer oriented geodetic data base and a new technique in file
    sequencing": the bits of row and column by turns.

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
    """Some patches of every image, spread over it, drawn anew for each epoch.

    Every patch has the same chance, so the gradient is in expectation that of all patches; about
    one comes from each stretch of neighbours, which are much alike, so it varies less than with
    patches drawn freely. What is drawn for an image depends on nothing but the seed, the purpose
    and the image's index: not on the batch it is in.

    Attributes:
        grid: Patches of an image, (h, w).
        wanted: How many of them are drawn, without repetition.
        seed: Seed of the run.
        purpose: What the draw is for, see `derive_seed`.

    References: Madow & Madow 1944, "On the theory of systematic sampling, I": equal steps from a
    random start; Stevens & Olsen 2004, "Spatially balanced sampling of natural resources", along a
    curve on which neighbours are near, shuffled in parts.

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
        """Places of the patches of images by their index, (B, wanted)."""
        drawn = [self._one(index) for index in indices]
        return torch.stack(drawn) if drawn else torch.empty(0, self.wanted, dtype=torch.long)

    def _one(self, index: int) -> Tensor:
        generator = derive_generator(self.seed, "patches", *self.purpose, index)
        count = math.prod(self.grid)
        # of two at least: steps through what is not shuffled would be a pattern
        stretch = torch.arange(count) // max(round(count / self.wanted), 2)
        shuffled = (torch.rand(count, generator=generator, dtype=torch.float64) + stretch).argsort()
        start = torch.randint(count, (), generator=generator)
        # in whole numbers: none twice, and each as likely as any other
        every = (torch.arange(self.wanted) * count + start) // self.wanted
        return z_curve(self.grid)[shuffled[every]]
