"""Random choice of the patches of an image for a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moleflow_pl._internal.seeding import derive_generator
from moleflow_pl.features.patch_grid import z_curve


@dataclass(frozen=True)
class PatchDraw:
    """Spatially balanced random subsampling of the patches of every image.

    Every patch has the same probability, so the expected gradient is that of all patches. About one
    patch comes from each stretch of similar neighbours, so the gradient varies less than with
    independent draws. The draw for an image depends only on the seed, the purpose and the
    image's index, not on its batch.

    Attributes:
        grid: Patches of an image, (h, w).
        wanted: Number of patches to draw, without repetition.
        seed: Seed of the run.
        purpose: What the draw is for, such as a product and an epoch, see `derive_seed`.
        inside: Whether each patch counts (h, w), bool; by default all do.

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
    inside: Tensor | None = None

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """Draw patches of the images with these indices; row-major, (B, wanted)."""
        draws = [self._draw(index) for index in indices]
        return torch.stack(draws) if draws else torch.empty(0, self.wanted, dtype=torch.long)

    def _draw(self, index: int) -> Tensor:
        generator = derive_generator(self.seed, "patches", *self.purpose, index)
        curve = z_curve(self.grid)
        if self.inside is not None:
            curve = curve[self.inside.flatten()[curve]]
        count = len(curve)
        # at least two patches in a stretch: without shuffling, the steps make a regular pattern
        stretch = torch.arange(count) // max(round(count / self.wanted), 2)
        shuffled = (torch.rand(count, generator=generator, dtype=torch.float64) + stretch).argsort()
        start = torch.randint(count, (), generator=generator)
        # in integers, so that patches are distinct and equally likely
        steps = (torch.arange(self.wanted) * count + start) // self.wanted
        return curve[shuffled[steps]]


def draw_of(
    inside: Tensor, share: float, seed: int, purpose: tuple[str | int, ...]
) -> PatchDraw | None:
    """A draw of a share of the patches that count (h, w), bool; None if it takes all patches.

    Example:
        >>> draw_of(torch.ones(2, 2, dtype=torch.bool), 1.0, 0, ()) is None
        True
    """
    wanted = max(round(share * int(inside.sum())), 1)
    if wanted >= inside.numel():
        return None
    grid = (inside.shape[0], inside.shape[1])
    return PatchDraw(grid, wanted, seed, purpose, None if inside.all() else inside)
