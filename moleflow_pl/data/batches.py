"""What a batch holds, by name."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
from torch import Tensor


class Identity(NamedTuple):
    """What tells an image file from any other, and from itself at another time.

    Attributes:
        path: Its absolute path, as it is written into a table.
        size: Bytes.
        modified: When it was last written, in nanoseconds.
        digest: Hash of its content.
    """

    path: str
    size: int
    modified: int
    digest: str


class Batch(TypedDict, total=False):
    """Images of one task, or their stored features.

    Attributes:
        task: Number of the task of each image, long (B,).
        gt_label: 1 for a defective image, long (B,).
        path: Files of the images, B.
        product: Products they show, B.
        defect: Kinds of defect, `good` for none, B.
        image: (B, 3, H, W), uint8.
        gt_mask: Masks (H', W') at their own size, B; None for a product without masks.
        features: (B, h, w, D), or (B, n, D) of the drawn patches.
        patches: Places of the drawn patches in the grid, row by row, long (B, n).
        grid: Height and width (h, w) of the grid that drawn features are of.
    """

    task: Tensor
    gt_label: Tensor
    path: list[str]
    product: list[str]
    defect: list[str]
    image: Tensor
    gt_mask: list[Tensor | None]
    features: Tensor
    patches: Tensor
    grid: tuple[int, int]


class PredictBatch(TypedDict):
    """Images of unknown products; B may be 0.

    Attributes:
        image: (B, 3, H, W), uint8.
        path: Files of the images, B.
        size: Height and width of each image in its file, B.
        identity: Which files they are, B.
        preview: Small copies (H', W', 3) uint8 where pictures are drawn, B; else empty.
        skipped: Files that are no images, each with the reason.
    """

    image: Tensor
    path: list[str]
    size: list[tuple[int, int]]
    identity: list[Identity]
    preview: list[np.ndarray]
    skipped: list[tuple[str, str]]
