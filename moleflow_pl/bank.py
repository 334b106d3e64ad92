"""Distances in the latent space: to the nearest latents that are kept, and within an image."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

ROWS = 4096  # distances of this many patches at once
WITHIN = 2**20  # distances within an image at once: 4 MB
CANDIDATES = 8  # latents to choose from, for each that is kept
SKETCH = 64  # random directions in which latents are compared when a coreset is chosen
WINDOW = 1 / 8  # share of an image's side to each side of a patch that shows nearly what it shows
OTHERS = 5  # patches of its own image that one is compared with
SIDE = 64  # places along each side of an image that are asked, at most


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
        self.register_buffer("latents", halved(torch.full((size, channels), torch.inf)))
        self.latents: Tensor

    def fill(self, latents: Tensor, generator: torch.Generator) -> None:
        """Keep a coreset of a product's training latents (N, D).

        Where there are fewer than fit, all are kept, some twice.
        """
        order = coreset(latents, min(self.size, len(latents)), generator)
        order = order.repeat(-(-self.size // len(order)))[: self.size]
        self.latents.copy_(halved(latents[order.to(latents.device)]))


def halved(latents: Tensor) -> Tensor:
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


def distance_within(latent: Tensor) -> Tensor:
    """Mean distance of each patch to the nearest others of its own image.

    What belongs on a product is mostly on it in several places, a defect in one: an image says
    something of what is normal that no training image says. Compared with are patches outside a
    window around each, of large images evenly spread ones, so that the time grows no faster than
    that of a bank. Zero where an image has no patch outside the window.

    Shape: latent (B, h, w, D) -> (B, h, w).

    References: Luo et al. 2025, INP-Former, arXiv:2503.02424, for normal prototypes from the image
    under test; Li et al. 2024, MuSc, arXiv:2401.16753, for neighbours among unlabelled patches.

    Example:
        >>> row = torch.zeros(1, 1, 12, 1)
        >>> row[..., 0, :] = 3.0  # nothing else in its image is like it
        >>> distance_within(row)[0, 0, :3].tolist()
        [3.0, 0.0, 0.0]
    """
    h, w = latent.shape[1:3]
    window = patches_near(h, w)  # of sizes alone, so an exported graph has it as a constant
    others = min(OTHERS, int((~window).sum(1).min()))
    if not others:
        return torch.zeros_like(latent[..., 0])
    asked = latent[:, :: step(h), :: step(w)].flatten(1, 2)
    part = max(1, WITHIN // window.shape[1])
    rows, near = latent.flatten(1, 2).split(part, dim=1), torch.from_numpy(window).split(part)
    with torch.autocast(latent.device.type, enabled=False):
        means = [mean_distance(*pair, asked, others) for pair in zip(rows, near, strict=True)]
    return torch.cat(means, 1).reshape(latent.shape[:-1])


def mean_distance(rows: Tensor, near: Tensor, asked: Tensor, others: int) -> Tensor:
    """Mean distance (B, n) of rows (B, n, D) to the nearest of `asked` (B, m, D).

    Those that are near (n, m) in the image do not count.
    """
    squares = asked.square().sum(-1)[:, None] - 2 * rows @ asked.transpose(1, 2)
    squares = squares.masked_fill(near.to(rows.device), torch.inf)
    nearest = squares.topk(others, dim=-1, largest=False).values
    return (nearest + rows.square().sum(-1)[..., None]).clamp_min(0).sqrt().mean(-1)


def step(size: int) -> int:
    """From one place that is asked to the next along a side of that many."""
    return math.ceil(size / SIDE)


@lru_cache(maxsize=4)  # the same for every batch
def patches_near(h: int, w: int) -> np.ndarray:
    """Whether an asked place lies in the window around a patch (h w, asked)."""
    down, across = (
        np.abs(np.arange(size)[:, None] - np.arange(0, size, step(size))) <= round(WINDOW * size)
        for size in (h, w)
    )
    return np.kron(down, across)


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
