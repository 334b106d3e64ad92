"""How far an image is from a product's good ones, by the patches that are most like them.

A defect changes some patches, another product all: even its most ordinary patches are strange.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ASKED = 64  # patches of an image that are looked at, at most: what is asked for is no detail
ORDINARY = 0.05  # quantile of an image's patches that stands for its most ordinary ones


def sample_patches(features: Tensor) -> Tensor:
    """At most 64 patches of each image, evenly spread, brought to length one.

    Length is where shade and contrast are.

    Shape: features (B, h, w, D) -> (B, n, D).

    Example:
        >>> sample_patches(torch.ones(1, 16, 16, 4)).shape
        torch.Size([1, 64, 4])
    """
    step = math.ceil(math.sqrt(features.shape[1] * features.shape[2] / ASKED))
    first = step // 2
    return F.normalize(features[:, first::step, first::step], dim=-1).flatten(1, 2)


def ordinary_quantile(distances: Tensor) -> Tensor:
    """How strange an image's most ordinary patches are: (B,) of their distances (B, n).

    Example:
        >>> ordinary_quantile(torch.tensor([[1.0, 9.0, 9.0], [9.0, 9.0, 9.0]])).round()
        tensor([2., 9.])
    """
    return torch.quantile(distances, ORDINARY, dim=1)


def double_contrast(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 in a harsh light: twice as far from their mean.

    Example:
        >>> double_contrast(torch.tensor([100, 120]).byte().reshape(1, 1, 1, 2)).tolist()
        [[[[90, 130]]]]
    """
    values = images.float()
    mean = values.mean((1, 2, 3), keepdim=True)
    return (mean + 2 * (values - mean)).round().clamp(0, 255).to(torch.uint8)


def destroy_half(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 of which a half is grey noise: by turns upper, left, lower, right.

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


# what may befall a known product and leaves it known
DAMAGES = (double_contrast, destroy_half)
