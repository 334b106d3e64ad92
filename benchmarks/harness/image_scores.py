"""Ways to score an image by the scores of its patches, to be compared on the same maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from moleflow_pl.scoring.functional import TAIL_QUANTILE, anomaly_map, tail_mean

SHARES = (0.005, 0.01, 0.02, 0.05)  # of the patches or pixels that count
TOP = 0.01  # share of a map whose mean is a part of its structure
ROWS = 64  # maps that are blurred at once

# patch scores of images to score (N, h, w), and of good images (M, h, w) -> scores (N,)
ImageWay = Callable[[Tensor, Tensor], Tensor]


def highest_patches(patches: Tensor, good: Tensor, share: float) -> Tensor:
    """Mean of the highest share of an image's patches."""
    return tail_mean(patches, 1 - share)


def highest_pixels(patches: Tensor, good: Tensor, share: float) -> Tensor:
    """Mean of the highest share of the pixels of an image's blurred map."""
    return torch.cat([tail_mean(anomaly_map(part), 1 - share) for part in patches.split(ROWS)])


def descriptor(patches: Tensor) -> Tensor:
    """Standard deviation, mean of the highest 1 %, and total variation of maps: (N, 3).

    Example:
        >>> descriptor(torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]))
        tensor([[1., 2., 2.]])
    """
    down = (patches[:, 1:] - patches[:, :-1]).abs().mean((1, 2))
    across = (patches[:, :, 1:] - patches[:, :, :-1]).abs().mean((1, 2))
    spread = patches.flatten(1).std(1)
    return torch.stack([spread, tail_mean(patches, 1 - TOP), down + across], 1)


def structure(patches: Tensor, good: Tensor) -> Tensor:
    """Diagonal Mahalanobis distance of a map's descriptor from those of good images.

    References: Chae et al. 2026, StructCore, arXiv:2602.17048, as far as its abstract tells.
    """
    known = descriptor(good)
    return ((descriptor(patches) - known.mean(0)) / known.std(0)).square().sum(1).sqrt()


def with_structure(patches: Tensor, good: Tensor) -> Tensor:
    """The tail mean in standard deviations of good images', and the distance of the structure."""
    known = tail_mean(good, TAIL_QUANTILE)
    standardised = (tail_mean(patches, TAIL_QUANTILE) - known.mean()) / known.std()
    return standardised + structure(patches, good)


IMAGE_WAYS: dict[str, ImageWay] = {
    **{f"highest {s:.1%} of the patches": partial(highest_patches, share=s) for s in SHARES},
    **{f"highest {s:.1%} of the blurred map": partial(highest_pixels, share=s) for s in SHARES},
    "structure alone": structure,
    "highest 2.0% of the patches, with structure": with_structure,
}
DEFAULT_WAY = f"highest {1 - TAIL_QUANTILE:.1%} of the patches"
