"""Localisation of defects: maps at the size of the image, and boxes around defective pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage
from torch import Tensor

from moleflow_pl._internal.files import writing
from moleflow_pl.scoring.functional import anomaly_map

MapFormat = Literal["npy", "tiff"]
PictureFormat = Literal["jpg", "png"]
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


def pixel_map(patch_scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample an image's patch scores (h, w) to a raw map (H, W) of its pixels, bilinearly.

    No pixel exceeds the highest patch, so a threshold on patches holds for pixels too.
    """
    return anomaly_map(patch_scores[None], size, sigma=0)[0]


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
    values = scores.cpu().numpy()
    labels, count = ndimage.label(values > threshold, structure=CONNECTED)
    peaks = ndimage.maximum(values, labels, np.arange(count + 1))
    levels = (threshold + np.asarray(peaks)) / 2
    return (labels > 0) & (values >= levels[labels])


def find_boxes(scores: Tensor, threshold: float) -> list[Box]:
    """Boxes around the defects in a map (H, W), see `defect_mask`; the highest peak comes first.

    Example:
        >>> import torch
        >>> find_boxes(torch.eye(3) * torch.tensor([1.8, 2.0, 0.0]), 0.5)
        [Box(left=0, top=0, width=2, height=2, peak=2.0)]
    """
    values = scores.cpu().numpy()
    labels, _ = ndimage.label(defect_mask(scores, threshold), structure=CONNECTED)
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == number
        peak = float(values[rows, columns][inside].max())
        size = (columns.stop - columns.start, rows.stop - rows.start)
        boxes.append(Box(columns.start, rows.start, *size, peak))
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
