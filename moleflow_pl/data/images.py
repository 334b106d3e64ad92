"""From an image file to a tensor: one code path for training, test, prediction and checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from moleflow_pl.errors import DataError

READER = 1  # raised by a change that gives other pixels: features stored before are not used
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
DEEPEST = 65535
DEEP_TO_BYTE = 257  # 65535 / 255
UNSCALED_MODE = "F"
ORIENTATION = 0x0112  # EXIF tag
SIDEWAYS = (5, 6, 7, 8)


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """Read an image as RGB and resize it to `size` (height, width), bicubic.

    The rotation in the file's EXIF data is applied, 16-bit values are scaled, transparency is
    dropped, and the first of several frames is used.

    Shape: (3, *size), uint8.

    Raises:
        DataError: the file is not a readable image, has more pixels than Pillow's limit of 179
            million, or has values of unknown scale.
    """
    return to_tensor(read_rgb(path), size)


def read_rgb(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB at its own size, rotated as its EXIF data says.

    Raises:
        DataError: as for `read_image`.
    """
    with open_image(path) as image:
        return upright_rgb(image)


def read_preview(path: Path, side: int) -> Image.Image:
    """Read an image as RGB for display, its longer side at most `side` pixels.

    Raises:
        DataError: as for `read_image`.
    """
    rgb = read_rgb(path)
    rgb.thumbnail((side, side))
    return rgb


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to 8-bit RGB, rotated as its EXIF data says.

    Raises:
        ValueError: as for `to_rgb`.
    """
    return to_rgb(upright(image))


def read_mask(path: Path) -> Tensor:
    """Read a mask at its own size: uint8 (H, W), 1 where it is not black.

    Raises:
        DataError: the file is not a readable image.
    """
    with open_image(path) as image:
        mask = upright(image)
        # a 16-bit mask may hold a 1, which is black in 8 bits
        values = np.asarray(mask if mask.mode in DEEP_MODES else mask.convert("L"))
        return torch.from_numpy((values > 0).astype(np.uint8))


def read_size(path: Path) -> tuple[int, int]:
    """Read the whole file in the cheapest way; return its width and height after EXIF rotation.

    Raises:
        DataError: as for `read_image`.
    """
    with open_image(path) as image:
        width, height = image.size
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
        # decoding a JPEG at a small size reads the whole file for less work
        image.draft("RGB", (1, 1))
        image.load()
        check_scale(image)
        to_rgb(image.crop((0, 0, 1, 1)))
        return (height, width) if sideways else (width, height)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file; every error within the block names the file.

    Raises:
        DataError: anything within the block fails.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")  # reading a pipe would block
        if path.is_file() and not path.stat().st_size:
            raise ValueError("the file is empty")
        with Image.open(path) as image:
            yield image
    except Exception as error:  # a damaged file can break a decoder in any way
        message = str(error).replace(f" '{path}'", "").removesuffix(":")
        reason = message or type(error).__name__
        raise DataError(f"cannot read the image {path}: {reason}") from error


def upright(image: Image.Image) -> Image.Image:
    """The first frame of an image, rotated as its EXIF data says."""
    image.load()
    return ImageOps.exif_transpose(image)


def check_scale(image: Image.Image) -> None:
    """Check that an image can be converted to 8-bit RGB.

    Raises:
        ValueError: it has LAB colours, floating-point values, or integers beyond 16 bits.
    """
    if image.mode == "LAB":
        raise ValueError("LAB colours: save it as RGB")  # Pillow would use their lightness alone
    if image.mode == UNSCALED_MODE:
        raise ValueError("floating-point pixels have no known scale: save it with 8 or 16 bits")
    if image.mode == "I":
        low, high = image.getextrema()
        if low < 0 or high > DEEPEST:  # type: ignore[operator]
            raise ValueError(f"pixels from {low} to {high}: save it with 8 or 16 bits")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to 8-bit RGB; 16-bit grey values are scaled, not clipped.

    Raises:
        ValueError: its values have no known scale, or its colours cannot be converted.
    """
    check_scale(image)
    if image.mode in DEEP_MODES:
        image = Image.fromarray(deep_to_bytes(np.asarray(image)))
    return image.convert("RGB")


def deep_to_bytes(values: np.ndarray) -> np.ndarray:
    """Scale 16-bit integers to 8 bits and round them.

    Example:
        >>> deep_to_bytes(np.array([0, 128, 129, 65535], dtype=np.uint16)).tolist()
        [0, 0, 1, 255]
    """
    return (values.astype(np.float64) / DEEP_TO_BYTE).round().astype(np.uint8)


def to_tensor(rgb: Image.Image, size: tuple[int, int]) -> Tensor:
    """Convert an RGB image to a uint8 tensor (3, *size), resized by a bicubic filter."""
    height, width = size
    resized = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


ImageLike = Image.Image | np.ndarray | Tensor | str | Path
CHANNELS = (1, 3, 4)


def as_rgb(image: ImageLike) -> Image.Image:
    """Convert an image in any accepted form to 8-bit RGB.

    Raises:
        DataError: it is not an image.

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
            f"not an image: an array is (H, W) or (H, W, C), a tensor (C, H, W), with C one of "
            f"{CHANNELS}, got {type(image).__name__} of shape {tuple(image.shape)}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(as_bytes(array)).convert("RGB")


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Convert the values of an image to 8 bits.

    Raises:
        DataError: floats outside [0, 1], or an unsupported dtype.

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
            f"an image of floats must lie in [0, 1], got {array.min()} to {array.max()}: scale it, "
            "or give uint8"
        )
    return np.round(array * 255).astype(np.uint8)
