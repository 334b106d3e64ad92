"""Checks of the images and masks that a run will use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from moleflow_pl._internal.distributed import gather, is_first
from moleflow_pl.data.images import read_size
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.errors import DataError

logger = logging.getLogger(__name__)

OnError = Literal["stop", "skip"]


class ImageCheck:
    """Checks images before they are used, and remembers the flaws it finds.

    On several ranks, the first rank checks and sends the result to the others.

    Args:
        on_error: `stop` lists all bad images in one error, `skip` lists them and leaves them out.
    """

    def __init__(self, on_error: OnError = "stop") -> None:
        self.on_error = on_error
        self.flaws: dict[Path, str] = {}
        self._checked: set[Path] = set()

    def look_at(self, records: Iterable[ImageRecord]) -> None:
        """Check the images that were not checked yet.

        Raises:
            DataError: some cannot be used, and `on_error` is `stop`.
        """
        new = {r.path: r for r in records if r.path not in self._checked}
        self._checked |= set(new)
        new_flaws = find_flaws(list(new.values())) if new and is_first() else {}
        new_flaws, known_flaws = gather((new_flaws, self.flaws))[0]
        self.flaws = {**known_flaws, **new_flaws}
        if not new_flaws:
            return
        message = list_flaws(new_flaws, len(new))
        if self.on_error == "stop":
            raise DataError(
                f"{message}\nrepair or remove them, or leave them out: data.on_error skip"
            )
        logger.warning(f"{message}\nthey are left out (data.on_error skip)")

    def usable(self, records: Iterable[ImageRecord]) -> list[ImageRecord]:
        """The images without a flaw."""
        return [record for record in records if record.path not in self.flaws]


def find_flaws(records: Sequence[ImageRecord]) -> dict[Path, str]:
    """Read every image and its mask in several threads, with a progress bar.

    Returns:
        The flaw of each bad image, by its path.
    """
    # decoding releases Python's global lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(flaw_of, records)
        flaws = list(tqdm(results, "checking images", len(records), unit="image"))
    return {r.path: flaw for r, flaw in zip(records, flaws, strict=True) if flaw is not None}


def flaw_of(record: ImageRecord) -> str | None:
    """What is wrong with an image or its mask, in words; None if it can be used."""
    try:
        size = read_size(record.path)
        if record.lacks_mask:
            return f"its mask is missing: {record.expected_mask}"
        if record.mask is None:
            return None
        mask_size = read_size(record.mask)
    except DataError as error:
        return str(error)
    if mask_size == size:
        return None
    return (
        f"its mask {record.mask} has {mask_size[0]} x {mask_size[1]} pixels, the image {size[0]} x "
        f"{size[1]}"
    )


def list_flaws(flaws: Mapping[Path, str], checked: int) -> str:
    """List flaws, one a line, under their number.

    Example:
        >>> print(list_flaws({Path("a.png"): "the file is empty"}, 3))
        1 of 3 images cannot be used:
          a.png: the file is empty
    """
    lines = [f"{len(flaws)} of {checked} images cannot be used:"]
    for path, reason in sorted(flaws.items()):
        short_reason = reason.removeprefix(f"cannot read the image {path}: ")
        lines.append(f"  {path}: {short_reason}")
    return "\n".join(lines)
