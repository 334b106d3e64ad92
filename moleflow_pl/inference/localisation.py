"""Localisation of defects: maps at the size of the image, and boxes around defective pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from moleflow_pl._internal.files import writing
from moleflow_pl.scoring.functional import anomaly_map

MapFormat = Literal["npy", "tiff"]
PictureFormat = Literal["jpg", "png"]
GUIDE_PIXELS = (8, 4)  # a side of what a map follows, for each patch, where it is not too long
LONGEST_GUIDE = 512  # pixels a side of what a map follows; with more patches, it is plain
LEAST_VARIANCE = 1e-3  # of colours in 0..1 in a window, below which a map is smoothed instead
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3))
VARIANCES = [0, 3, 5]  # among the pairs
Place = tuple[slice, slice]
CONNECTED = np.ones((3, 3), dtype=int)  # pixels that touch at a corner are one defect


@dataclass(frozen=True)
class Box:
    """Bounding box of a defect, in pixels of the image.

    Attributes:
        left: First column.
        top: First row.
        width: Number of columns.
        height: Number of rows.
        peak: Highest score of the defect.
    """

    left: int
    top: int
    width: int
    height: int
    peak: float


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

    No pixel exceeds the patches around it, so a threshold on patches holds for pixels.

    Args:
        patch_scores: (h, w).
        size: Height and width of the map.
        guide: What the map follows, as of `guides_of`; without it, the map is bilinear.
    """
    finer = guide is not None and guide.shape[1] > len(patch_scores)
    if guide is not None and finer and patch_scores.isfinite().all():
        patch_scores = follow(patch_scores, guide)
    return anomaly_map(patch_scores[None], size, sigma=0)[0]


def follow(patch_scores: Tensor, guide: Tensor) -> Tensor:
    """Upsample finite patch scores (h, w) so that they follow an image (3, n h, n w).

    A guided filter: within a window of two patches, the map is the linear function of the colours
    that is closest to the bilinear map, so that it ends where the defect does and not where a patch
    does.

    Shape: (n h, n w).

    References: He, Sun & Tang 2013, doi:10.1109/TPAMI.2012.213.
    """
    colours, scores = guide.numpy() / 255, patch_scores.double()
    height, width = colours.shape[1:]
    each = height // len(scores)  # pixels of a patch's side
    window_mean = partial(mean_around, side=2 * each + 1)
    plain = anomaly_map(scores[None], (height, width), sigma=0).numpy()
    channels = np.concatenate([colours, plain])
    means = window_mean(np.concatenate([channels, products_of(channels)]))
    mean_colours, mean_plain = means[:3], means[3]
    covariances = means[4:] - products_of(means[:4])
    covariances[VARIANCES] += LEAST_VARIANCE
    slopes = solve_symmetric(covariances[:6], covariances[6:])
    offsets = mean_plain - (slopes * mean_colours).sum(0)
    line = window_mean(np.concatenate([slopes, offsets[None]]))
    followed = (line[:3] * colours).sum(0) + line[3]
    own = scores.numpy().repeat(each, 0).repeat(each, 1)
    highest = ndimage.maximum_filter(own, each - 1)  # patches that a bilinear map mixes
    return torch.from_numpy(followed.clip(own.min(), highest)).to(patch_scores.dtype)


def mean_around(values: np.ndarray, side: int) -> np.ndarray:
    """Means over a square window around each pixel (..., H, W)."""
    return ndimage.uniform_filter(values, (1,) * (values.ndim - 2) + (side, side))


def products_of(channels: np.ndarray) -> np.ndarray:
    """Products of three colours with each other (6, H, W), then with a fourth channel (3, H, W)."""
    return np.stack([channels[i] * channels[j] for i, j in PAIRS])


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


def defect_mask(scores: Tensor, threshold: float) -> np.ndarray:
    """Pixels (H, W) of the defects in a map, bool.

    A region of connected pixels above the threshold is widened by the patches and by their
    receptive fields. So the defect is the part of a region whose score exceeds the threshold by at
    least half of the region's peak excess.

    Example:
        >>> import torch
        >>> defect_mask(torch.tensor([[0.0, 2.0, 4.0, 9.0, 4.0, 0.0, 2.0]]), 1.0).astype(int)
        array([[0, 0, 0, 1, 0, 0, 1]])
    """
    mask = np.zeros(scores.shape, dtype=bool)
    for place, defect in defects(scores.cpu().numpy(), threshold):
        mask[place] |= defect
    return mask


def defects(values: np.ndarray, threshold: float) -> Iterator[tuple[Place, np.ndarray]]:
    """Each region of pixels above the threshold: where it is, and which of its pixels are defects.

    Only the smallest rectangle around all of them is searched.
    """
    above = values > threshold
    rows, columns = np.flatnonzero(above.any(1)), np.flatnonzero(above.any(0))
    if not rows.size:
        return
    top, left = int(rows[0]), int(columns[0])
    labels, _ = ndimage.label(above[top : rows[-1] + 1, left : columns[-1] + 1], CONNECTED)
    for number, (down, right) in enumerate(ndimage.find_objects(labels), start=1):
        place = (
            slice(top + down.start, top + down.stop),
            slice(left + right.start, left + right.stop),
        )
        part, inside = values[place], labels[down, right] == number
        level = (threshold + part[inside].max(keepdims=True)) / 2
        yield place, inside & (part >= level)


def find_boxes(scores: Tensor, threshold: float) -> list[Box]:
    """Boxes around the defects in a map (H, W), see `defect_mask`; the highest peak comes first.

    Example:
        >>> import torch
        >>> find_boxes(torch.eye(3) * torch.tensor([1.8, 2.0, 0.0]), 0.5)
        [Box(left=0, top=0, width=2, height=2, peak=2.0)]
    """
    values, boxes = scores.cpu().numpy(), []
    for (rows, columns), defect in defects(values, threshold):
        labels, _ = ndimage.label(defect, structure=CONNECTED)  # one region may have several peaks
        for number, (down, right) in enumerate(ndimage.find_objects(labels), start=1):
            top, left = rows.start + down.start, columns.start + right.start
            size = (right.stop - right.start, down.stop - down.start)
            inside = labels[down, right] == number
            peak = float(values[rows, columns][down, right][inside].max())
            boxes.append(Box(left, top, *size, peak))
    return sorted(boxes, key=lambda box: -box.peak)


def outline(mask: np.ndarray) -> np.ndarray:
    """The edge of a mask (H, W) as an image: 255 for its border pixels, otherwise 0.

    Example:
        >>> outline(np.ones((3, 3), dtype=bool))[1].tolist()
        [255, 0, 255]
    """
    edge = mask & ~ndimage.binary_erosion(mask)
    return edge.astype(np.uint8) * 255


def save_mask(mask: np.ndarray, target: Path) -> None:
    """Write a mask (H, W), bool, as PNG: 255 for a defect, otherwise 0."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(target, format="PNG")


def save_map(scores: Tensor, target: Path, form: MapFormat) -> None:
    """Write a map (H, W) in float32."""
    values = scores.cpu().numpy().astype(np.float32)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if form == "npy":
            with target.open("wb") as file:  # numpy would add an ending of its own
                np.save(file, values)
        else:
            Image.fromarray(values).save(target, format="TIFF")
