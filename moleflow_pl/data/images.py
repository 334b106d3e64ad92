"""From an image file to a tensor: one code path for training, test, prediction and checks."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile
from torch import Tensor

from moleflow_pl._internal.files import regular
from moleflow_pl._internal.printable import printable
from moleflow_pl.errors import DataError

READER = 2  # increased by a change that alters pixels, so that stored features are not reused
# supported formats: Pillow has others, one of which starts a program (ghostscript)
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "AVIF", "HEIF")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
DEEP_TO_BYTE = 257  # 65535 / 255
UNSCALED_MODE = "F"
ORIENTATION = 0x0112  # EXIF tag
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageFile:
    """An image file as it was at one moment; it is read once.

    Attributes:
        path: The file.
        content: Its bytes.
        modified: Modification time in nanoseconds.
    """

    path: Path
    content: bytes
    modified: int

    @classmethod
    def read(cls, path: Path) -> ImageFile:
        """Read a file.

        Raises:
            DataError: the path is not a file, is empty, cannot be read, or changed meanwhile.
        """
        with naming(path):
            with regular(path).open("rb") as file:
                before = os.fstat(file.fileno())
                content = file.read()
                after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise ValueError("it changed while it was read: try again")
            if not content:
                raise ValueError("the file is empty")
            return cls(path, content, after.st_mtime_ns)

    @property
    def digest(self) -> str:
        """Hash of the content, for comparisons."""
        return hashlib.blake2b(self.content, digest_size=16).hexdigest()

    @contextmanager
    def open(self) -> Iterator[Image.Image]:
        """Open the file as an image; every error within the block names it.

        Raises:
            DataError: anything within the block fails.
        """
        with naming(self.path), open_content(self.content) as image:
            yield image

    def rgb(self) -> Image.Image:
        """The image as 8-bit RGB at its own size, rotated as its EXIF data says.

        Raises:
            DataError: as for `read_image`.
        """
        with self.open() as image:
            return upright_rgb(image)


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this Pillow reads, with pillow-heif if it is installed."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_content(content: bytes) -> Image.Image:
    """Open the bytes of a file as an image; all decoding goes through here.

    Raises:
        ValueError: the format is not supported.
    """
    try:
        return Image.open(io.BytesIO(content), formats=readable_formats())
    except UnidentifiedImageError as error:
        readable = ", ".join(readable_formats())
        heif = content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS
        hint = "; AVIF and HEIF need a newer Pillow, or pillow-heif" if heif else ""
        raise ValueError(f"cannot identify it as one of {readable}{hint}") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within the block, turn any error into one that names the file.

    Raises:
        DataError: anything within the block fails.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a damaged file can break a decoder in any way
        system = error.strerror if isinstance(error, OSError) else None
        reason = system or str(error) or type(error).__name__
        raise DataError(f"cannot read the image {printable(path)}: {reason}") from error


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
    return ImageFile.read(path).rgb()


def shrink(rgb: Image.Image, side: int) -> Image.Image:
    """Shrink an image in place for display, to at most `side` pixels on its longer side."""
    rgb.thumbnail((side, side))
    return rgb


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to 8-bit RGB, rotated as its EXIF data says.

    Raises:
        ValueError: the image has no pixels, or as for `check_scale` and `to_rgb`.
    """
    if 0 in image.size:
        raise ValueError(f"the image has no pixels, its size is {image.width} x {image.height}")
    check_scale(image)
    return to_rgb(upright(image))


def size_of(file: ImageFile) -> tuple[int, int]:
    """Decode a whole file as cheaply as possible; return width and height after EXIF rotation.

    Raises:
        DataError: as for `read_image`.
    """
    with file.open() as image:
        whole = image.size
        # decoding a JPEG at a small size reads the whole file for less work
        is_small = image.draft("RGB", (1, 1)) is not None
        image.load()  # Pillow rotates a TIFF here, and then drops its orientation
        width, height = whole if is_small else image.size
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
        check_scale(image)
        to_rgb(image.crop((0, 0, 1, 1)))
        return (height, width) if sideways else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """The first frame of an image, rotated as its EXIF data says."""
    image.load()
    return ImageOps.exif_transpose(image)


def check_scale(image: Image.Image) -> None:
    """Check that an image, as it was opened or given, can be converted to 8-bit RGB.

    Raises:
        ValueError: the image has LAB colours, floating-point or 32-bit values, or negative ones.
    """
    if image.mode == "LAB":
        raise ValueError("LAB colours: save it as RGB")  # Pillow would use the lightness alone
    if image.mode == UNSCALED_MODE:
        raise ValueError("floating-point pixels have no known scale: convert it to 8 or 16 bits")
    if image.mode == "I":
        low, high = image.getextrema()
        if not has_16_bits(image):
            raise ValueError(
                f"32-bit pixels from {low} to {high} have no known scale: convert it to 8 or 16 "
                "bits"
            )
        if low < 0:  # type: ignore[operator]
            raise ValueError(f"pixels from {low} to {high}: convert it to values from 0 on")


def has_16_bits(image: Image.Image) -> bool:
    """Whether an image that Pillow holds in 32 bits has 16 in its file.

    Those are signed values in a TIFF, and a PNG in some versions of Pillow. A copy, such as a
    rotated or pickled one, no longer says so.
    """
    if isinstance(image, TiffImageFile):
        return getattr(image, "tag_v2", {}).get(BITSPERSAMPLE) == (16,)
    return image.format == "PNG"  # which has 16 at most


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB; 16-bit grey values are scaled, not clipped.

    Args:
        image: Any PIL image that `check_scale` accepts, or a copy of one.

    Raises:
        ValueError: its colours cannot be converted.
    """
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
    # along the width first, whatever Pillow's version: from 13 on its own order depends on the
    # image's form, which moves edges by up to 30 grey levels
    narrowed = rgb.resize((width, rgb.height), Image.Resampling.BICUBIC)
    resized = narrowed.resize((width, height), Image.Resampling.BICUBIC)
    # by numpy: torch would wake its threads, which may be busy with a batch
    return torch.from_numpy(np.array(np.asarray(resized).transpose(2, 0, 1), order="C"))


def brightness_of(images: Tensor) -> Tensor:
    """Mean grey level (B,) in 0..1 of images (B, 3, H, W), uint8 or float in [0, 1].

    Example:
        >>> brightness_of(torch.full((1, 3, 2, 2), 51, dtype=torch.uint8))
        tensor([0.2000])
    """
    means = images.flatten(1).float().mean(1)
    return means if images.is_floating_point() else means / 255
