"""Checks of the images and masks that a run will use."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moleflow_pl._internal.distributed import gather, is_first
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.steps import step
from moleflow_pl.data.images import ImageFile, size_of
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.masks import Mask, read_mask
from moleflow_pl.errors import DataError

logger = logging.getLogger(__name__)

OnError = Literal["stop", "skip"]
NAMED = 20  # masks to name; a whole data set may have JPEG masks


@dataclass(frozen=True)
class Finding:
    """Result of checking an image.

    Attributes:
        flaw: Why it cannot be used, in words; None if it can.
        doubt: What looks wrong with its mask, although it is used; None if nothing does.
        digest: Hash of the file's content; None if it cannot be read.
    """

    flaw: str | None = None
    doubt: str | None = None
    digest: str | None = None


class ImageCheck:
    """Checks images before they are used, and remembers the results.

    On several ranks, the first rank checks and sends the result to the others.

    Args:
        on_error: `stop` lists all bad images in one error, `skip` lists them and leaves them out.

    Attributes:
        flaws: Why images cannot be used.
        digests: Hashes of the contents of the images checked by this rank.
    """

    def __init__(self, on_error: OnError = "stop") -> None:
        self.on_error = on_error
        self.flaws: dict[Path, str] = {}
        self.digests: dict[Path, str] = {}
        self._checked: set[Path] = set()

    def check(self, records: Iterable[ImageRecord]) -> bool:
        """Check the images that were not checked before.

        Returns:
            Whether there were any.

        Raises:
            DataError: some images cannot be used, and `on_error` is `stop`.
        """
        new = {r.path: r for r in records if r.path not in self._checked}
        self._checked |= set(new)
        findings = check_all(list(new.values())) if new and is_first() else {}
        self.digests |= {path: result.digest for path, result in findings.items() if result.digest}
        doubts = {path: result.doubt for path, result in findings.items() if result.doubt}
        if doubts:
            logger.warning(
                describe(doubts, f"{len(doubts)} masks look wrong, but are used:", NAMED)
            )
        flaws = {path: result.flaw for path, result in findings.items() if result.flaw}
        flaws, known_flaws = gather((flaws, self.flaws))[0]
        self.flaws = {**known_flaws, **flaws}
        if flaws:
            self._report(describe(flaws, f"{len(flaws)} of {len(new)} images cannot be used:"))
        return bool(new)

    def _report(self, message: str) -> None:
        if self.on_error == "stop":
            raise DataError(
                f"{message}\nrepair or remove them, or set data.on_error skip to leave them out"
            )
        logger.warning(f"{message}\nthey are left out (data.on_error skip)")

    def usable(self, records: Iterable[ImageRecord]) -> list[ImageRecord]:
        """The images without a flaw."""
        return [record for record in records if record.path not in self.flaws]


def check_all(records: Sequence[ImageRecord]) -> dict[Path, Finding]:
    """Check every image and its mask in several threads, with a progress bar."""
    # decoding releases Python's global lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(check_image, records)
        findings = []
        with step("checking images", total=len(records)) as advance:
            for finding in results:
                findings.append(finding)
                advance(1)
    return {record.path: result for record, result in zip(records, findings, strict=True)}


def check_image(record: ImageRecord) -> Finding:
    """Check an image and its mask."""
    try:
        file = ImageFile.read(record.path)
        size = size_of(file)
        if record.lacks_mask:
            flaw = f"its mask is missing: {printable(record.expected_mask)}"
            return Finding(flaw, digest=file.digest)
        mask = None if record.mask is None else read_mask(record.mask)
    except DataError as error:
        return Finding(str(error))
    if mask is None:
        return Finding(digest=file.digest)
    return check_mask(record, mask, size, file.digest)


def check_mask(record: ImageRecord, mask: Mask, size: tuple[int, int], digest: str) -> Finding:
    """Check a mask against the width and height of its image."""
    name, (height, width) = printable(record.mask), mask.pixels.shape
    if (width, height) != size:
        return Finding(
            f"its mask {name} has {width} x {height} pixels, the image {size[0]} x {size[1]}",
            digest=digest,
        )
    doubt = None if mask.doubt is None else f"its mask {name} {mask.doubt}"
    return Finding(doubt=doubt, digest=digest)


def describe(reasons: Mapping[Path, str], title: str, most: int | None = None) -> str:
    """List the findings about images, one on each line.

    Args:
        reasons: The findings, by image.
        title: The first line.
        most: How many to list; by default all.

    Example:
        >>> print(describe({Path("a.png"): "the file is empty"}, "1 of 3 images cannot be used:"))
        1 of 3 images cannot be used:
          a.png: the file is empty
    """
    lines = [title]
    for path, reason in sorted(reasons.items())[:most]:
        name = printable(path)
        lines.append(f"  {name}: {reason.removeprefix(f'cannot read the image {name}: ')}")
    if most is not None and len(reasons) > most:
        lines.append(f"  … and {len(reasons) - most} more")
    return "\n".join(lines)
