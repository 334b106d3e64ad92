"""From an image file to a tensor: the one path for learning, testing, predicting and checking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from moleflow_pl.errors import DataError

READER = 1  # counts changes that give other pixels: features kept from before are not used
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
DEEPEST = 65535
DEEP_TO_BYTE = 257  # 65535 / 255
UNSCALED_MODE = "F"
ORIENTATION = 0x0112  # EXIF's number for it
SIDEWAYS = (5, 6, 7, 8)


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """Read an image as RGB and resize it to `size` (height, width), bicubic.

    A rotation in the file's EXIF data is applied, 16-bit values are scaled, transparency is dropped
    and of several frames the first is taken.

    Shape: (3, *size), uint8.

    Raises:
        DataError: the file is no readable image, has more than Pillow's limit of 179 million
            pixels, or values whose scale nobody knows.
    """
    return to_tensor(read_rgb(path), size)


def read_rgb(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB at its own size, turned as its EXIF data says.

    Raises:
        DataError: as for `read_image`.
    """
    with opened(path) as image:
        return upright_rgb(image)


def read_preview(path: Path, side: int) -> Image.Image:
    """Read an image as RGB for a person, its longer side at most `side` pixels.

    Raises:
        DataError: as for `read_image`.
    """
    rgb = read_rgb(path)
    rgb.thumbnail((side, side))
    return rgb


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB, turned as its EXIF data says.

    Raises:
        ValueError: as for `to_rgb`.
    """
    return to_rgb(upright(image))


def read_mask(path: Path) -> Tensor:
    """Read a mask at its own size: uint8 (H, W), 1 where it is not black.

    Raises:
        DataError: the file is no readable image.
    """
    with opened(path) as image:
        turned = upright(image)
        # a 16-bit mask may hold a 1, which is black in 8 bits
        values = np.asarray(turned if turned.mode in DEEP_MODES else turned.convert("L"))
        return torch.from_numpy((values > 0).astype(np.uint8))


def read_size(path: Path) -> tuple[int, int]:
    """Read an image to its end, in the cheapest way; its width and height, upright.

    Raises:
        DataError: as for `read_image`.
    """
    with opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION) in SIDEWAYS
        # a JPEG may be decoded small, which reads all of the file for less
        image.draft("RGB", (1, 1))
        image.load()
        check_scale(image)
        to_rgb(image.crop((0, 0, 1, 1)))
        return (height, width) if turned else (width, height)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file, and name it whatever is wrong with it.

    Raises:
        DataError: anything fails until the end of the block.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("no file")  # a pipe would keep its reader waiting
        if path.is_file() and not path.stat().st_size:
            raise ValueError("the file is empty")
        with Image.open(path) as image:
            yield image
    except Exception as error:  # the bytes of a foreign file can break a decoder in any way
        told = str(error).replace(f" '{path}'", "").removesuffix(":")
        reason = told or type(error).__name__
        raise DataError(f"cannot read the image {path}: {reason}") from error


def upright(image: Image.Image) -> Image.Image:
    """The first frame of an image, with the rotation that its EXIF data asks for."""
    image.load()
    return ImageOps.exif_transpose(image)


def check_scale(image: Image.Image) -> None:
    """Refuse values that no rule brings to 8-bit RGB.

    Raises:
        ValueError: LAB colours, floating-point numbers, or whole ones beyond 16 bits.
    """
    if image.mode == "LAB":
        raise ValueError("LAB colours: save it as RGB")  # Pillow would take their lightness alone
    if image.mode == UNSCALED_MODE:
        raise ValueError("floating-point pixels have no known scale: save it with 8 or 16 bits")
    if image.mode == "I":
        low, high = image.getextrema()
        if low < 0 or high > DEEPEST:  # type: ignore[operator]
            raise ValueError(f"pixels from {low} to {high}: save it with 8 or 16 bits")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB, 16-bit grey values scaled rather than clipped.

    Raises:
        ValueError: its values have no known scale, or its colours no way to RGB.
    """
    check_scale(image)
    if image.mode in DEEP_MODES:
        image = Image.fromarray(deep_to_bytes(np.asarray(image)))
    return image.convert("RGB")


def deep_to_bytes(values: np.ndarray) -> np.ndarray:
    """Whole numbers of 16 bits as 8 bits, scaled and rounded.

    Example:
        >>> deep_to_bytes(np.array([0, 128, 129, 65535], dtype=np.uint16)).tolist()
        [0, 0, 1, 255]
    """
    return (values.astype(np.float64) / DEEP_TO_BYTE).round().astype(np.uint8)


def to_tensor(rgb: Image.Image, size: tuple[int, int]) -> Tensor:
    """An RGB image as uint8 tensor (3, *size), resized by a bicubic filter."""
    height, width = size
    resized = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


ImageLike = Image.Image | np.ndarray | Tensor | str | Path
CHANNELS = (1, 3, 4)


def as_rgb(image: ImageLike) -> Image.Image:
    """Anything that holds an image as 8-bit RGB.

    Raises:
        DataError: it holds none.

    Example:
        >>> as_rgb(torch.zeros(3, 4, 5)).size
        (5, 4)
    """
    if isinstance(image, (str, Path)):
        return read_rgb(Path(image))
    if isinstance(image, Image.Image):
        try:
            return upright_rgb(image)
        except ValueError as error:
            raise DataError(f"this image cannot be used: {error}") from error
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        raise DataError(
            f"no image: an array is (H, W) or (H, W, C), a tensor (C, H, W), with C one of "
            f"{CHANNELS}, got {type(image).__name__} of shape {tuple(image.shape)}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(as_bytes(array)).convert("RGB")


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Values of an image as 8 bits.

    Raises:
        DataError: floats beyond [0, 1], or another kind of number.

    Example:
        >>> as_bytes(np.array([[0.0, 1.0]])).tolist()
        [[0, 255]]
    """
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return deep_to_bytes(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"an image holds uint8, uint16, bool or floats in [0, 1], got {array.dtype}"
        )
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise DataError(
            f"an image of floats lies in [0, 1], got {array.min()} to {array.max()}: scale it, or "
            "give uint8"
        )
    return np.round(array * 255).astype(np.uint8)
