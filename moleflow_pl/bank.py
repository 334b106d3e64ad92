"""Latents of normal patches that are kept, and the distance to the nearest of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS = 4096  # distances of this many patches at once


class LatentBank(nn.Module):
    """A random part of a product's training latents, in half precision.

    In the latent space of the flow neighbours tell more than in the features, and more than the
    flow's own density. What is kept is no image and no feature, but it is data of the product: an
    option beside the pure flow.

    Args:
        channels: Width of a latent, D.
        size: Latents kept, M.

    Shape: buffer `latents` (M, D).

    References: Roth et al. 2022, PatchCore, arXiv:2106.08265, section 3, on features.

    Example:
        >>> bank = LatentBank(2, size=1)
        >>> bank.fill(torch.zeros(1, 2), torch.Generator())
        >>> bank.distance(torch.tensor([[3.0, 4.0]]))
        tensor([5.])
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        # beyond every latent until it is filled
        self.register_buffer("latents", torch.full((size, channels), torch.inf).half())
        self.latents: Tensor

    def fill(self, latents: Tensor, generator: torch.Generator) -> None:
        """Keep some of a product's training latents (N, D), drawn without repetition.

        Where there are fewer than fit, all are kept, some twice.
        """
        order = torch.randperm(len(latents), generator=generator)
        order = order.repeat(-(-self.size // len(order)))[: self.size]
        self.latents.copy_(latents[order.to(latents.device)])

    def distance(self, latent: Tensor) -> Tensor:
        """Distance of latents (..., D) to the nearest kept one, (...)."""
        kept = self.latents.to(latent.dtype)
        norms = kept.square().sum(1)
        nearest = [
            torch.addmm(norms, rows, kept.T, alpha=-2).amin(1) + rows.square().sum(1)
            for rows in latent.flatten(0, -2).split(ROWS)
        ]
        return torch.cat(nearest).clamp_min(0).sqrt().reshape(latent.shape[:-1])
