"""Incoming images: checked, decoded, and stored under names of the service's own."""

from __future__ import annotations

import re
import time
from pathlib import Path

from PIL import Image

from moleflow_pl._internal.files import token, writing
from moleflow_pl._internal.printable import printable
from moleflow_pl.data.image_forms import as_data_error
from moleflow_pl.data.images import open_content, upright_rgb
from moleflow_pl.errors import DataError

LONGEST_NAME = 255  # characters of a client's name that are kept
# of a folder and of a file in it
DAY, KEPT_NAME = re.compile(r"\d{4}-\d\d-\d\d"), re.compile(r"\d+\.\d{6}-[0-9a-f]+\.\w+")


class ImageStore:
    """A folder of images.

    Args:
        folder: Where they are; it is created.
        max_pixels: Most pixels of an image.
        keep: Whether to keep any.
    """

    def __init__(self, folder: Path, max_pixels: int, keep: bool = True) -> None:
        self.folder, self.max_pixels, self.keep = folder, max_pixels, keep

    def decode(self, content: bytes) -> tuple[Image.Image, str]:
        """Decode a file; its size is checked before its pixels are decoded.

        Returns:
            The image, RGB and upright, and the name of its format.

        Raises:
            DataError: the file is not an image, or has too many pixels.
        """
        if not content:
            raise DataError("this image cannot be used: the file is empty")

        def decode() -> tuple[Image.Image, str]:
            with open_content(content) as image:
                pixels = image.width * image.height
                if pixels > self.max_pixels:
                    raise DataError(
                        f"this image has {image.width} x {image.height} pixels, and --max-pixels "
                        f"allows {self.max_pixels}"
                    )
                return upright_rgb(image), str(image.format)

        return as_data_error(decode)

    def save(self, content: bytes, form: str) -> str | None:
        """Store a file under a new name.

        Args:
            content: Its bytes.
            form: The name of its format.

        Returns:
            Its path below the folder; None if none are kept.

        Raises:
            OutputError: the file cannot be written.
        """
        if not self.keep:
            return None
        now = time.time()
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        place = f"{day}/{now:.6f}-{token()}.{form.lower()}"
        path = self.folder / place
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.write_bytes(content)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return place

    def discard(self, place: str | None) -> None:
        """Remove a stored image that was not inspected after all."""
        if place is not None:
            (self.folder / place).unlink(missing_ok=True)

    def path(self, place: str | None) -> Path | None:
        """Path of a stored image; None if it was not stored, or is gone."""
        path = None if place is None else self.folder / place
        return path if path is not None and path.is_file() else None


def client_name(name: str | None) -> str:
    r"""The last part of a client's name for an image, for display only.

    Example:
        >>> client_name("../../etc/passwd"), client_name("C:\\a\\b.png"), client_name(None)
        ('passwd', 'b.png', '')
        >>> client_name("\udcff.png")
        '\\udcff.png'
    """
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    # databases accept neither zero bytes nor surrogates
    return printable(last.replace("\0", ""))[:LONGEST_NAME]
