"""Memory banks: coresets of a task's latents, and distances to the nearest of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS = 4096  # patches whose distances are computed at once
CANDIDATES = 8  # latents that a coreset is chosen from, for each one it holds
SKETCH = 64  # random directions that distances are measured in while a coreset is chosen


class MemoryBank(nn.Module):
    """A coreset of a task's training latents, in half precision.

    A coreset covers rare normal latents. Random subsampling misses them, and each then raises a
    false alarm. A bank holds no images and no features, yet it is data of the product; scores
    without a bank store none.

    Args:
        channels: Width of a latent, D.
        size: Latents in the bank, M.

    Shape: buffer `latents` (M, D).

    References: Roth et al. 2022, PatchCore, arXiv:2106.08265, section 3, on features.

    Example:
        >>> bank = MemoryBank(2, size=1)
        >>> bank.fill(torch.zeros(1, 2), torch.Generator())
        >>> nearest_distance(torch.tensor([[3.0, 4.0]]), bank.latents)
        tensor([5.])
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        # an empty bank is far from every latent; infinity would make distances NaN
        self.register_buffer("latents", to_half_clamped(torch.full((size, channels), torch.inf)))
        self.latents: Tensor

    def fill(self, latents: Tensor, generator: torch.Generator) -> None:
        """Store a coreset of a task's training latents (N, D).

        With N < M, the bank holds all of them, some more than once.
        """
        order = coreset(latents, min(self.size, len(latents)), generator)
        order = order.repeat(-(-self.size // len(order)))[: self.size]
        self.latents.copy_(to_half_clamped(latents[order.to(latents.device)]))


def to_half_clamped(latents: Tensor) -> Tensor:
    """Latents in half precision; values beyond its range become its largest."""
    largest = torch.finfo(torch.half).max
    return latents.clamp(-largest, largest).half()


def nearest_distance(latents: Tensor, bank: Tensor) -> Tensor:
    """Distances (...) of latents (..., D) to the nearest vector of a bank (M, D)."""
    bank = bank.to(latents.dtype)
    norms = bank.square().sum(1)
    with torch.autocast(latents.device.type, enabled=False):
        nearest = [
            torch.addmm(norms, rows, bank.T, alpha=-2).amin(1) + rows.square().sum(1)
            for rows in latents.flatten(0, -2).split(ROWS)
        ]
    return torch.cat(nearest).clamp_min(0).sqrt().reshape(latents.shape[:-1])


def coreset(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Indices (size,) of rows (N, D) that all others are close to, none twice.

    Greedy k-center: each row is the one farthest from those chosen before. The largest distance to
    a chosen row is at most twice the smallest possible; with more than 64 channels, distances are
    those of random projections of the rows. Time grows with N times `size`.

    References: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; Roth et
    al. 2022, PatchCore, arXiv:2106.08265, section 3.2, with random projections.

    Example:
        >>> rows = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
        >>> sorted(coreset(rows, 2, torch.Generator().manual_seed(0)).tolist())[-1]
        3
    """
    if size == len(rows):
        return torch.randperm(size, generator=generator)
    if rows.shape[1] > SKETCH:
        rows = rows @ torch.randn(rows.shape[1], SKETCH, generator=generator).to(rows)
    squares = rows.square().sum(1)
    distances = torch.full_like(squares, torch.inf)  # squared, to the nearest chosen row
    chosen = torch.empty(size, dtype=torch.long, device=rows.device)
    chosen[0] = torch.randint(len(rows), (), generator=generator)
    for i in range(1, size):
        last = chosen[i - 1]
        distances = torch.minimum(distances, squares - 2 * (rows @ rows[last]) + squares[last])
        distances[last] = -torch.inf
        chosen[i] = distances.argmax()
    return chosen.cpu()
