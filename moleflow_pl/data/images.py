"""From an image file to a tensor: the one path for learning, testing and predicting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from moleflow_pl.errors import DataError

READER = 1  # counts changes that give other pixels: features kept from before are not used
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
DEEP_TO_BYTE = 257  # 65535 / 255


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """Read an image as RGB and resize it to `size` (height, width), bicubic.

    A rotation in the file's EXIF data is applied, 16-bit values are scaled, transparency dropped.

    Shape: (3, *size), uint8.

    Raises:
        DataError: the file is no readable image.
    """
    return to_tensor(read_rgb(path), size)


def read_rgb(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB at its own size, turned as its EXIF data says.

    Raises:
        DataError: the file is no readable image.
    """
    with _open(path) as image:
        return upright_rgb(image)


def read_preview(path: Path, side: int) -> Image.Image:
    """Read an image as RGB for a person, its longer side at most `side` pixels.

    Raises:
        DataError: the file is no readable image.
    """
    rgb = read_rgb(path)
    rgb.thumbnail((side, side))
    return rgb


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB, turned as its EXIF data says."""
    return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB, 16-bit grey values scaled rather than clipped."""
    if image.mode in DEEP_MODES:
        deep = np.asarray(image).astype(np.float64) / DEEP_TO_BYTE
        image = Image.fromarray(deep.round().clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def to_tensor(rgb: Image.Image, size: tuple[int, int]) -> Tensor:
    """An RGB image as uint8 tensor (3, *size), resized by a bicubic filter."""
    height, width = size
    resized = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def read_mask(path: Path) -> Tensor:
    """Read a mask at its own size: uint8 (H, W), 1 where it is not black.

    Raises:
        DataError: the file is no readable image.
    """
    with _open(path) as image:
        return torch.from_numpy((np.asarray(image.convert("L")) > 0).astype(np.uint8))


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read the image {path}: {error}") from error
    return image
