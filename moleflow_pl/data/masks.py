"""From a mask file to the pixels of a defect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moleflow_pl.data.images import DEEP_MODES, ImageFile, upright

LOSSY_FORMATS = ("JPEG", "MPO", "AVIF", "HEIF")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")  # Pillow's names of compressions
HALF_LEVEL = 128  # of 255: compression changes values by less
RIFF_HEADER = 12  # bytes before the first chunk of a WebP file


@dataclass(frozen=True)
class Mask:
    """A mask read from a file.

    Attributes:
        pixels: uint8 (H, W), 1 for a defect.
        lossy: Whether its compression is lossy, so that the threshold is half of the range.
    """

    pixels: Tensor
    lossy: bool

    @property
    def doubt(self) -> str | None:
        """What looks wrong with the mask of a defective image, in words."""
        if not self.pixels.any():
            return "is empty: it marks no pixel of a defective image"
        if self.pixels.all():
            return "is full: it marks every pixel"
        if self.lossy:
            return "has lossy compression: values from 128 of 255 on count as defect"
        return None


def read_mask(path: Path) -> Mask:
    """Read a mask at its own size: every pixel that is not background belongs to a defect.

    Background is 0 in every channel, or index 0 of a palette that begins with black. If colour
    separates nothing, the alpha channel is used, and then the index. In a lossy file, values from
    half of the range on count.

    Raises:
        DataError: the file is not a readable image.
    """
    file = ImageFile.read(path)
    with file.open() as image:
        lossy = is_lossy(image, file.content)
        return Mask(torch.from_numpy(defect_pixels(upright(image), lossy)), lossy)


def is_lossy(image: Image.Image, content: bytes) -> bool:
    """Whether a file's compression is lossy."""
    if image.format == "WEBP":
        return b"VP8L" not in webp_chunks(content)
    if image.format == "TIFF":
        return image.info.get("compression") in LOSSY_TIFF
    return image.format in LOSSY_FORMATS


def webp_chunks(content: bytes) -> Iterator[bytes]:
    """Names of the chunks of a WebP file: `VP8L` is lossless."""
    place = RIFF_HEADER
    while place + 8 <= len(content):
        yield content[place : place + 4]
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + length + length % 2


def defect_pixels(image: Image.Image, lossy: bool) -> np.ndarray:
    """Pixels that are not background: the first plane that separates them decides.

    Shape: uint8 (H, W).
    """
    level = HALF_LEVEL if lossy else 1
    candidates = [plane >= level for plane in planes(image)]
    separating = (marked for marked in candidates if marked.any() and not marked.all())
    return next(separating, candidates[0]).astype(np.uint8)


def planes(image: Image.Image) -> list[np.ndarray]:
    """Planes (H, W) that may separate a defect from the background, the strongest first."""
    if image.mode in DEEP_MODES:  # a 16-bit mask may hold a 1, which is black in 8 bits
        return [np.asarray(image)]
    rgba = np.asarray(image.convert("RGBA"))
    by_colour = [rgba[..., :3].max(2), rgba[..., 3]]
    if image.mode != "P":
        return by_colour
    indices = np.asarray(image)
    begins_black = not any((image.getpalette("RGB") or [0])[:3])
    return [indices, *by_colour] if begins_black else [*by_colour, indices]
