"""Distances in the latent space, to the nearest latents that are kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS = 4096  # distances of this many patches at once
CANDIDATES = 8  # latents to choose from, for each that is kept
SKETCH = 64  # random directions in which latents are compared when a coreset is chosen


class LatentBank(nn.Module):
    """Some of a product's training latents that stand for all of them, in half precision.

    In the latent space of the flow neighbours tell more than in the features, and more than the
    flow's own density. Kept are those of a `coreset`: a random part has many that are alike, and
    lacks rare normal ones, which then raise false alarms. What is kept is no image and no feature,
    but it is data of the product: an option beside the pure flow.

    Args:
        channels: Width of a latent, D.
        size: Latents kept, M.

    Shape: buffer `latents` (M, D).

    References: Roth et al. 2022, PatchCore, arXiv:2106.08265, section 3, on features.

    Example:
        >>> bank = LatentBank(2, size=1)
        >>> bank.fill(torch.zeros(1, 2), torch.Generator())
        >>> nearest_distance(torch.tensor([[3.0, 4.0]]), bank.latents)
        tensor([5.])
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        # far from every latent until it is filled; infinity would make a distance NaN
        self.register_buffer("latents", to_half_clamped(torch.full((size, channels), torch.inf)))
        self.latents: Tensor

    def fill(self, latents: Tensor, generator: torch.Generator) -> None:
        """Keep a coreset of a product's training latents (N, D).

        Where there are fewer than fit, all are kept, some twice.
        """
        order = coreset(latents, min(self.size, len(latents)), generator)
        order = order.repeat(-(-self.size // len(order)))[: self.size]
        self.latents.copy_(to_half_clamped(latents[order.to(latents.device)]))


def to_half_clamped(latents: Tensor) -> Tensor:
    """Latents in half precision, beyond which an outlier may lie."""
    most = torch.finfo(torch.half).max
    return latents.clamp(-most, most).half()


def nearest_distance(latent: Tensor, kept: Tensor) -> Tensor:
    """Distance of latents (..., D) to the nearest of those that are kept (M, D), (...)."""
    kept = kept.to(latent.dtype)
    norms = kept.square().sum(1)
    with torch.autocast(latent.device.type, enabled=False):
        nearest = [
            torch.addmm(norms, rows, kept.T, alpha=-2).amin(1) + rows.square().sum(1)
            for rows in latent.flatten(0, -2).split(ROWS)
        ]
    return torch.cat(nearest).clamp_min(0).sqrt().reshape(latent.shape[:-1])


def coreset(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Places of some rows (N, D) to which all the others are near, (size,), none twice.

    Greedy k-center: each is the one that lies farthest from those before. So the largest distance
    to a kept row is at most twice the smallest possible; of more than 64 channels, that between
    random projections of the rows. Time grows with N times `size`.

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
    apart = torch.full_like(squares, torch.inf)  # from the nearest one chosen
    chosen = torch.empty(size, dtype=torch.long, device=rows.device)
    chosen[0] = torch.randint(len(rows), (), generator=generator)
    for i in range(1, size):
        last = chosen[i - 1]
        apart = torch.minimum(apart, squares - 2 * (rows @ rows[last]) + squares[last])
        apart[last] = -torch.inf
        chosen[i] = apart.argmax()
    return chosen.cpu()
