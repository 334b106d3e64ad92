"""Anomaly maps that follow the edges of the image: a guided filter with back-projection."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from moleflow_pl.scoring.functional import anomaly_map

GUIDE_PIXELS = (8, 4)  # a side of what a map follows, for each patch, where it is not too long
LONGEST_GUIDE = 512  # pixels a side of what a map follows; with more patches, it is plain
LEAST_VARIANCE = 1e-3  # of colours in 0..1 in a window, below which a map is smoothed instead
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of three colours
VARIANCES = [0, 3, 5]  # among the pairs


def guides_of(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """What maps on a grid (h, w) of patches follow: images (B, 3, H, W), uint8 or float in [0, 1].

    Shape: (B, 3, n h, n w), uint8, with n = 8 or, where patches are many, 4 or 1.

    Example:
        >>> guides_of(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8), (2, 2))[0, 0, 0, :3]
        tensor([51, 51, 51], dtype=torch.uint8)
    """
    values = images * 255 if images.is_floating_point() else images.float()
    each = next((n for n in GUIDE_PIXELS if n * max(grid) <= LONGEST_GUIDE), 1)
    size = (grid[0] * each, grid[1] * each)
    small = F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)
    return small.round().clamp(0, 255).byte()


def pixel_map(patch_scores: Tensor, size: tuple[int, int], guide: Tensor | None = None) -> Tensor:
    """Upsample an image's patch scores (h, w) to a raw map (H, W) of its pixels.

    Args:
        patch_scores: (h, w).
        size: Height and width of the map.
        guide: What the map follows, as of `guides_of`; without it, the map is bilinear.
    """
    return anomaly_map(refined(patch_scores, guide)[None], size, sigma=0)[0]


def refined(patch_scores: Tensor, guide: Tensor | None) -> Tensor:
    """Patch scores that follow a guide; the same scores where it is no finer, or one is not finite.

    Shape: (h, w) -> that of the guide, or (h, w).
    """
    finer = guide is not None and guide.shape[1] > len(patch_scores)
    if guide is not None and finer and patch_scores.isfinite().all():
        return follow(patch_scores, guide)
    return patch_scores


def follow(patch_scores: Tensor, guide: Tensor) -> Tensor:
    """Upsample finite patch scores (h, w) so that they follow an image (3, n h, n w).

    A guided filter makes the map end where the defect does, not where a patch does. But it flattens
    small peaks, so the difference between each patch's score and its mean in the map is filtered
    too, and added: back-projection.

    Shape: (n h, n w).

    References: He, Sun & Tang 2013, doi:10.1109/TPAMI.2012.213, for the filter; Irani & Peleg 1991,
    doi:10.1016/1049-9652(91)90045-L, for back-projection.
    """
    each = guide.shape[1] // len(patch_scores)  # pixels of a patch's side
    guided = GuidedFilter(guide, each)
    scores = patch_scores.double().numpy()
    followed = guided(scores)
    followed += guided(scores - patch_means(followed, each))
    # the lowest score, such as that beyond a region of interest, stays where a bilinear map has it
    above = (scores > scores.min()).repeat(each, 0).repeat(each, 1)
    near = ndimage.maximum_filter(above, each - 1)
    followed = np.where(near, followed, scores.min()).clip(scores.min())
    return torch.from_numpy(followed).to(patch_scores.dtype)


class GuidedFilter:
    """Upsamples patch scores: in each window of two patches, to a linear function of the image.

    Args:
        guide: The image (3, n h, n w), uint8.
        each: Pixels of a patch's side, n.
    """

    def __init__(self, guide: Tensor, each: int) -> None:
        self.colours, self.window_mean = guide.numpy() / 255, partial(mean_around, 2 * each + 1)
        self.means = self.window_mean(self.colours)
        mean_products = self.window_mean(products_of(self.colours))
        self.covariances = mean_products - products_of(self.means)
        self.covariances[VARIANCES] += LEAST_VARIANCE

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Upsample scores (h, w), float64, to (n h, n w).

        In each window, the function closest to the bilinear map counts; a pixel has the mean of all
        windows around it.
        """
        height, width = self.colours.shape[1:]
        plain = anomaly_map(torch.from_numpy(scores)[None], (height, width), sigma=0).numpy()
        mean_plain = self.window_mean(plain)
        with_plain = self.window_mean(self.colours * plain) - self.means * mean_plain
        slopes = solve_symmetric(self.covariances, with_plain)
        offsets = mean_plain - (slopes * self.means).sum(0)
        line = self.window_mean(np.concatenate([slopes, offsets]))
        return (line[:3] * self.colours).sum(0) + line[3]


def products_of(channels: np.ndarray) -> np.ndarray:
    """Products of three channels with each other (6, H, W)."""
    return np.stack([channels[i] * channels[j] for i, j in PAIRS])


def patch_means(values: np.ndarray, each: int) -> np.ndarray:
    """Means (h, w) over the patches of a map (n h, n w).

    Example:
        >>> patch_means(np.arange(8.0).reshape(2, 4), 2)
        array([[2.5, 4.5]])
    """
    height, width = values.shape
    return values.reshape(height // each, each, width // each, each).mean((1, 3))


def mean_around(side: int, values: np.ndarray) -> np.ndarray:
    """Means over a square window around each pixel (..., H, W)."""
    return ndimage.uniform_filter(values, (1,) * (values.ndim - 2) + (side, side))


def solve_symmetric(matrices: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Solve A x = b at each pixel, for symmetric A and b (3, H, W).

    By the adjugate, since there are as many systems as pixels.

    Args:
        matrices: The entries of A on and above its diagonal, row by row (6, H, W).
        values: b.
    """
    a, b, c, d, e, f = matrices
    x, y, z = values
    first, second, third = d * f - e * e, c * e - b * f, b * e - c * d
    fifth, last = b * c - a * e, a * d - b * b
    solution = np.stack(
        [
            first * x + second * y + third * z,
            second * x + (a * f - c * c) * y + fifth * z,
            third * x + fifth * y + last * z,
        ]
    )
    return solution / (a * first + b * second + c * third)
