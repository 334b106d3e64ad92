"""Localisation of defects: masks and boxes of the defective pixels in a map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage
from torch import Tensor

from moleflow_pl._internal.files import writing

MapFormat = Literal["npy", "tiff"]
PictureFormat = Literal["jpg", "png"]
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
