"""Files of a product's folder that a layout does not use, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from moleflow_pl._internal.printable import printable
from moleflow_pl.data.folders import files_below
from moleflow_pl.data.layouts.base import IMAGE_SUFFIXES, ROI, ImageRecord

HIDDEN = "hidden"
NO_IMAGE_NAME = "without an image suffix"
ELSEWHERE = "in places where the layout does not look"
NAMED = 2  # files to name for each reason


def unused_files(folder: Path, records: Iterable[ImageRecord]) -> dict[str, list[Path]]:
    """Files below a folder that no record uses, by reason."""
    used = {path for record in records for path in (record.path, record.mask) if path is not None}
    left = sorted(set(files_below(folder, hidden=True)) - used - {folder / ROI})
    # a file may be used under another name, through a link
    reached = {os.path.realpath(path) for path in used} if left else set()
    reasons: dict[str, list[Path]] = {}
    for path in left:
        if os.path.realpath(path) not in reached:
            relative = path.relative_to(folder)
            reasons.setdefault(reason_of(relative), []).append(relative)
    return reasons


def reason_of(path: Path) -> str:
    """Why a file, by its path below the product's folder, is not used."""
    if any(part.startswith(".") for part in path.parts):
        return HIDDEN
    return ELSEWHERE if path.suffix.lower() in IMAGE_SUFFIXES else NO_IMAGE_NAME


def describe_unused(product: str, reasons: Mapping[str, list[Path]]) -> str:
    """Describe in one line how many files of a product are not used, and why.

    Example:
        >>> describe_unused("a", {"hidden": [Path(".b")]})
        '1 files of a are not used: 1 hidden (.b)'
    """
    total = sum(map(len, reasons.values()))
    return f"{total} files of {printable(product)} are not used: {describe_reasons(reasons)}"


def describe_reasons(reasons: Mapping[str, list[Path]]) -> str:
    """How many files are not used for each reason, with the names of some.

    Example:
        >>> describe_reasons({"hidden": [Path(".b"), Path(".c"), Path(".d")]})
        '3 hidden (.b, .c, …)'
    """
    parts = []
    for reason, paths in sorted(reasons.items()):
        names = ", ".join(map(printable, paths[:NAMED])) + ", …" * (len(paths) > NAMED)
        parts.append(f"{len(paths)} {reason} ({names})")
    return "; ".join(parts)
