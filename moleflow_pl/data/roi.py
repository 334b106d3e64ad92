"""Masks of regions of interest: which patches of a product's images count."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import is_first
from moleflow_pl._internal.printable import printable
from moleflow_pl.data.images import ImageFile, size_of
from moleflow_pl.data.layouts.base import ROI, RootedLayout
from moleflow_pl.data.layouts.registry import require_products
from moleflow_pl.data.masks import read_mask
from moleflow_pl.data.splits import ProductSplits
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.features.region_of_interest import patches_inside

logger = logging.getLogger(__name__)

ASPECT_TOLERANCE = 0.01  # relative difference of a mask's aspect ratio from an image's
Roi = str | Mapping[str, str]  # a file for all products, or a file by product


def check_roi(roi: Roi | None, groups: Sequence[Sequence[str]]) -> None:
    """Check that masks are given only for known products.

    Raises:
        ConfigError: a product is unknown.
    """
    if isinstance(roi, Mapping):
        require_products("data.roi has masks for", roi, groups)


def roi_path(splits: ProductSplits, product: str, roi: Roi | None = None) -> Path | None:
    """The mask file of a product: a given one, or `roi.png` in its folder; None without one."""
    given = roi.get(product) if isinstance(roi, Mapping) else roi
    if given is not None:
        return Path(given).expanduser()
    layout = splits.layout
    if not isinstance(layout, RootedLayout):
        return None
    path = layout.folder_of(product) / ROI
    return path if path.is_file() else None


def read_roi(
    splits: ProductSplits, products: Sequence[str], grid: tuple[int, int], roi: Roi | None = None
) -> Tensor:
    """Whether each patch (h, w) of a task's images counts, bool; all do without a mask.

    Raises:
        DataError: a mask is not an image, has another aspect ratio than the images, covers no
            patch, or differs between products of the task.
    """
    first, *others = [_inside(splits, product, grid, roi) for product in products]
    if not all(torch.equal(first, other) for other in others):
        raise DataError(
            f"products {[*products]} are learned at once and share one region of interest, but "
            "their masks differ: give them the same mask, or learn them one by one"
        )
    share = first.float().mean().item()
    if share < 1 and is_first():
        names = ", ".join(map(printable, products))
        logger.info(f"region of interest of {names}: {share:.0%} of the patches")
    return first


def _inside(splits: ProductSplits, product: str, grid: tuple[int, int], roi: Roi | None) -> Tensor:
    path = roi_path(splits, product, roi)
    if path is None:
        return torch.ones(grid, dtype=torch.bool)
    pixels = read_mask(path).pixels
    name, (height, width) = printable(path), pixels.shape
    example = splits.records(product, "train")[0].path
    columns, rows = size_of(ImageFile.read(example))
    if abs(width * rows / (height * columns) - 1) > ASPECT_TOLERANCE:
        raise DataError(
            f"the region of interest {name} has {width} x {height} pixels, and {printable(example)}"
            f" has {columns} x {rows}: the aspect ratios must agree, so draw the mask on an image"
        )
    try:
        return patches_inside(pixels, grid)
    except ConfigError as error:
        raise DataError(f"the region of interest {name} leaves nothing: {error}") from error
