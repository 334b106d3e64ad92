"""A uniform random sample of the patches of many images, independent of their batches."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import gather, rank_and_world
from moleflow_pl._internal.seeding import derive_generator

SLACK = 1.25  # patches in memory, relative to the sample, at which surplus ones are dropped


class PatchSample:
    """Uniform random sample of patches, independent of batches and ranks.

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
        self._images: list[Tensor] = []

    @property
    def rows(self) -> Tensor:
        """The sample (M, D) so far, on the CPU, in the precision in which its patches came."""
        self._discard()
        return self._rows[0] if self._rows else torch.empty(0, self.channels)

    @property
    def sources(self) -> Tensor:
        """The image (M,) of each patch of `rows`: its index among the images of all ranks."""
        self._discard()
        return self._images[0] if self._images else torch.empty(0, dtype=torch.int32)

    def update(self, patches: Tensor) -> None:
        """Add the patches (B, h, w, D) of this rank's next images."""
        rank, world = rank_and_world()
        count, each = len(patches), patches.shape[1] * patches.shape[2]
        images = [rank + world * (self.images + i) for i in range(count)]
        self.images += count
        if count:
            draws = torch.cat([self._random_numbers(image, each) for image in images])
            sources = torch.tensor(images, dtype=torch.int32).repeat_interleave(each)
            # on the CPU: ranks exchange the sample
            self._add(patches.detach().flatten(0, 2).cpu(), draws, sources)

    def _random_numbers(self, image: int, patches: int) -> Tensor:
        generator = derive_generator(self.seed, *self.purpose, image)
        return torch.rand(patches, generator=generator, dtype=torch.float64)

    def _add(self, rows: Tensor, draws: Tensor, images: Tensor) -> None:
        self._rows.append(rows)
        self._draws.append(draws)
        self._images.append(images)
        # not for every batch: each call copies a large sample
        if sum(map(len, self._draws)) > SLACK * self.size:
            self._discard()

    def _discard(self) -> None:
        """Join all patches, and keep those with the lowest numbers."""
        if not self._rows:
            return
        rows, draws, images = map(torch.cat, (self._rows, self._draws, self._images))
        self._rows = []  # a large sample is in memory twice at most
        lowest = draws.argsort()[: self.size]
        self._rows, self._draws = [rows[lowest]], [draws[lowest]]
        self._images = [images[lowest]]

    def gathered(self) -> PatchSample:
        """The sample of the patches of all ranks, the same on each."""
        self._discard()
        merged = PatchSample(self.channels, self.size, self.seed, *self.purpose)
        for part in gather(self):
            for added in zip(part._rows, part._draws, part._images, strict=True):
                merged._add(*added)
        return merged
