"""Novelty distance: how far an image is from the good images of a task.

It is measured at the image's most ordinary patches. A defect changes other patches than those;
another product changes all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl.features.region_of_interest import Region

MAX_PATCHES = 64  # of an image: enough, since a product fills its image
ORDINARY_QUANTILE = 0.05  # of the distances of an image's patches


def sampled_places(grid: tuple[int, int]) -> Tensor:
    """Row-major indices (n,) of at most 64 patches of a grid (h, w), evenly spaced.

    Example:
        >>> sampled_places((8, 16)).tolist()[:8]
        [17, 19, 21, 23, 25, 27, 29, 31]
    """
    step = sample_step(grid)
    places = torch.arange(math.prod(grid)).reshape(grid)
    return places[step // 2 :: step, step // 2 :: step].flatten()


def sample_step(grid: tuple[int, int]) -> int:
    """Step between sampled patches of a grid (h, w)."""
    return math.ceil(math.sqrt(math.prod(grid) / MAX_PATCHES))


def sample_patches(features: Tensor, interest: Region | None = None) -> Tensor:
    """At most 64 patches of each image, evenly spaced, scaled to length one.

    With a region of interest, as many patches come from it. The length of a patch feature varies
    with brightness and contrast.

    Shape: features (B, h, w, D) -> (B, n, D).

    Example:
        >>> sample_patches(torch.ones(1, 16, 16, 4)).shape
        torch.Size([1, 64, 4])
    """
    step = sample_step((features.shape[1], features.shape[2]))
    sampled = features[:, step // 2 :: step, step // 2 :: step].flatten(1, 2)
    if interest is not None:
        sampled = features.flatten(1, 2)[:, interest.spread(sampled.shape[1])]
    return F.normalize(sampled, dim=-1)


def ordinary_quantile(distances: Tensor) -> Tensor:
    """Distance (B,) of the most ordinary patches of each image, from those of all (B, n).

    Example:
        >>> ordinary_quantile(torch.tensor([[1.0, 9.0, 9.0], [9.0, 9.0, 9.0]])).round()
        tensor([2., 9.])
    """
    ordered = distances.sort(1).values  # torch.quantile takes several times as long
    place = ORDINARY_QUANTILE * (distances.shape[1] - 1)
    below, above = ordered[:, math.floor(place)], ordered[:, math.ceil(place)]
    found = torch.lerp(below, above, place % 1)
    return torch.where(ordered[:, -1].isnan(), ordered[:, -1], found)  # NaN is sorted last


def double_contrast(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 with twice the contrast about their mean.

    Example:
        >>> double_contrast(torch.tensor([100, 120]).byte().reshape(1, 1, 1, 2)).tolist()
        [[[[90, 130]]]]
    """
    values = images.float()
    mean = values.mean((1, 2, 3), keepdim=True)
    return (mean + 2 * (values - mean)).round().clamp(0, 255).to(torch.uint8)


def destroy_half(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8, half of each replaced by grey noise: upper, left, lower, right.

    Example:
        >>> damaged = destroy_half(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
        >>> bool(damaged[0, :, 2:].any()), bool(damaged[1, :, :, 2:].any())
        (False, False)
    """
    height, width = images.shape[2:]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, height, width), generator=generator, dtype=torch.uint8)
    noise = noise.to(images.device).expand(3, -1, -1)
    upper, left = slice(0, height // 2), slice(0, width // 2)
    lower, right = slice(height // 2, None), slice(width // 2, None)
    everything = slice(None)
    halves = [(upper, everything), (everything, left), (lower, everything), (everything, right)]
    damaged = images.clone()
    for index, image in enumerate(damaged):
        rows, columns = halves[index % len(halves)]
        image[:, rows, columns] = noise[:, rows, columns]
    return damaged


def damage_within(
    damage: Callable[[Tensor], Tensor], images: Tensor, frame: tuple[slice, slice] | None = None
) -> Tensor:
    """Images (B, 3, H, W) damaged as a whole, or within the rows and columns of a frame alone."""
    if frame is None:
        return damage(images)
    damaged = images.clone()
    damaged[:, :, *frame] = damage(images[:, :, *frame])
    return damaged


# changes after which a known product still counts as known
DAMAGES = (double_contrast, destroy_half)
