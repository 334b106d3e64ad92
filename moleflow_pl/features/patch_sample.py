"""A uniform random sample of the patches of many images, whatever their batches."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import gather, rank_and_world
from moleflow_pl._internal.seeding import derive_generator


class PatchSample:
    """Uniform random sample of patches, whatever the batches and ranks they come in.

    Every patch gets a random number that depends on the index of its image; the sample is the
    patches with the lowest numbers. So the choice does not depend on what the patches are or how
    they are batched, and the samples of several ranks merge exactly.

    Args:
        channels: Width of a patch, D.
        size: Size of the sample, M.
        seed: Seed of the run.
        purpose: What the sample is for, see `derive_seed`.

    References: Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches", section 3.

    Example:
        >>> sample = PatchSample(2, 3, 0, "leather", "latents")
        >>> sample.update(torch.zeros(4, 5, 5, 2))
        >>> sample.rows.shape
        torch.Size([3, 2])
    """

    def __init__(self, channels: int, size: int, seed: int, *purpose: str | int) -> None:
        self.size = size
        self.seed = seed
        self.purpose = purpose
        self.images = 0
        self.rows = torch.empty(0, channels)
        self.draws = torch.empty(0, dtype=torch.float64)

    def update(self, patches: Tensor) -> None:
        """Add the patches (B, h, w, D) of this rank's next images."""
        rank, world = rank_and_world()
        count, (height, width) = len(patches), patches.shape[1:3]
        draws = [
            self._draws(rank + world * (self.images + i), height * width) for i in range(count)
        ]
        self.images += count
        if count:
            self._select(patches.flatten(0, 2), torch.cat(draws))

    def _draws(self, image: int, patches: int) -> Tensor:
        generator = derive_generator(self.seed, *self.purpose, image)
        return torch.rand(patches, generator=generator, dtype=torch.float64)

    def _select(self, rows: Tensor, draws: Tensor) -> None:
        candidates = draws.argsort()[: self.size]
        # on the CPU: a sample is small, and ranks exchange it
        rows = torch.cat((self.rows, rows[candidates.to(rows.device)].detach().cpu()))
        draws = torch.cat((self.draws, draws[candidates]))
        lowest = draws.argsort()[: self.size]
        self.rows, self.draws = rows[lowest], draws[lowest]

    def gathered(self) -> PatchSample:
        """The sample of the patches of all ranks, the same on each."""
        merged = PatchSample(self.rows.shape[1], self.size, self.seed, *self.purpose)
        for part in gather(self):
            merged._select(part.rows, part.draws)
        return merged
