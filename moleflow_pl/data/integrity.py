"""Which of the images and masks that a run will use can be used."""

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
from moleflow_pl.data.layouts.registry import ImageRecord
from moleflow_pl.errors import DataError

logger = logging.getLogger(__name__)

OnError = Literal["stop", "skip"]


class ImageCheck:
    """Looks at images before they are used, and knows those that cannot be.

    On several ranks the first looks, and tells the others.

    Args:
        on_error: `stop` lists the bad ones in one error, `skip` lists them and leaves them out.
    """

    def __init__(self, on_error: OnError = "stop") -> None:
        self.on_error = on_error
        self.flaws: dict[Path, str] = {}
        self._seen: set[Path] = set()

    def look_at(self, records: Iterable[ImageRecord]) -> None:
        """Read those that were not looked at yet.

        Raises:
            DataError: some cannot be used, and `on_error` is `stop`.
        """
        new = {r.path: r for r in records if r.path not in self._seen}
        self._seen |= set(new)
        found = find_flaws(list(new.values())) if new and is_first() else {}
        found, known = gather((found, self.flaws))[0]
        self.flaws = {**known, **found}
        if not found:
            return
        told = list_flaws(found, len(new))
        if self.on_error == "stop":
            raise DataError(f"{told}\nmend or remove them, or leave them out: data.on_error skip")
        logger.warning(f"{told}\nthey are left out (data.on_error skip)")

    def usable(self, records: Iterable[ImageRecord]) -> list[ImageRecord]:
        """Those in which no flaw was found."""
        return [record for record in records if record.path not in self.flaws]


def find_flaws(records: Sequence[ImageRecord]) -> dict[Path, str]:
    """Read every image and its mask, many at a time, with a progress bar.

    Returns:
        What is wrong, by the path of the image.
    """
    # decoding leaves Python's lock to others
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(flaw_of, records)
        flaws = list(tqdm(made, "checking images", len(records), unit="image"))
    return {r.path: flaw for r, flaw in zip(records, flaws, strict=True) if flaw is not None}


def flaw_of(record: ImageRecord) -> str | None:
    """What is wrong with an image or its mask, in words; None if nothing is."""
    try:
        size = read_size(record.path)
        if record.lacks_mask:
            return f"its mask is missing: {record.expected_mask}"
        if record.mask is None:
            return None
        of_mask = read_size(record.mask)
    except DataError as error:
        return str(error)
    if of_mask == size:
        return None
    return (
        f"its mask {record.mask} has {of_mask[0]} x {of_mask[1]} pixels, the image {size[0]} x "
        f"{size[1]}"
    )


def list_flaws(flaws: Mapping[Path, str], checked: int) -> str:
    """One line for each, under their number.

    Example:
        >>> print(list_flaws({Path("a.png"): "the file is empty"}, 3))
        1 of 3 images cannot be used:
          a.png: the file is empty
    """
    lines = [f"{len(flaws)} of {checked} images cannot be used:"]
    for path, reason in sorted(flaws.items()):
        told = reason.removeprefix(f"cannot read the image {path}: ")
        lines.append(f"  {path}: {told}")
    return "\n".join(lines)
