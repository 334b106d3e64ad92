"""A uniform random sample of the patches of many images, whatever their batches."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import gather, rank_and_world
from moleflow_pl._internal.seeding import derive_generator

SLACK = 1.25  # patches in memory until those beyond the sample are dropped, for each it holds


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
        self.channels = channels
        self._rows: list[Tensor] = []
        self._draws: list[Tensor] = []

    @property
    def rows(self) -> Tensor:
        """The sample (M, D) so far, on the CPU, in the precision in which its patches came."""
        self._discard()
        return self._rows[0] if self._rows else torch.empty(0, self.channels)

    def update(self, patches: Tensor) -> None:
        """Add the patches (B, h, w, D) of this rank's next images."""
        rank, world = rank_and_world()
        count, (height, width) = len(patches), patches.shape[1:3]
        draws = [
            self._random_numbers(rank + world * (self.images + i), height * width)
            for i in range(count)
        ]
        self.images += count
        if count:
            # on the CPU: ranks exchange the sample
            self._add(patches.detach().flatten(0, 2).cpu(), torch.cat(draws))

    def _random_numbers(self, image: int, patches: int) -> Tensor:
        generator = derive_generator(self.seed, *self.purpose, image)
        return torch.rand(patches, generator=generator, dtype=torch.float64)

    def _add(self, rows: Tensor, draws: Tensor) -> None:
        self._rows.append(rows)
        self._draws.append(draws)
        # not each time: a large sample would be copied for every batch
        if sum(map(len, self._draws)) > SLACK * self.size:
            self._discard()

    def _discard(self) -> None:
        """Join all patches, and keep those with the lowest numbers."""
        if not self._rows:
            return
        rows, draws = torch.cat(self._rows), torch.cat(self._draws)
        self._rows = []  # a large sample is in memory twice at most
        lowest = draws.argsort()[: self.size]
        self._rows, self._draws = [rows[lowest]], [draws[lowest]]

    def gathered(self) -> PatchSample:
        """The sample of the patches of all ranks, the same on each."""
        self._discard()
        merged = PatchSample(self.channels, self.size, self.seed, *self.purpose)
        for part in gather(self):
            for rows, draws in zip(part._rows, part._draws, strict=True):
                merged._add(rows, draws)
        return merged
