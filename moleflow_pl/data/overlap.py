"""Images that are used twice: for training and for testing, or for two products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from moleflow_pl._internal.printable import printable
from moleflow_pl.data.layouts.base import ImageRecord

NAMED = 3  # pairs to name


@dataclass(frozen=True, order=True)
class Use:
    """The use of an image.

    Attributes:
        product: The product that it shows according to its folder.
        part: `train` or `test`.
        path: The file.
    """

    product: str
    part: str
    path: Path


def uses_of(train: Iterable[ImageRecord], test: Iterable[ImageRecord]) -> list[Use]:
    """The uses of images for training and for testing."""
    parts = {"train": train, "test": test}
    return [Use(r.product, part, r.path) for part, records in parts.items() for r in records]


def describe_overlaps(uses: Iterable[Use], digests: Mapping[Path, str]) -> list[str]:
    """Describe images with equal content that are in train and test, or in two products.

    Args:
        uses: The use of every image.
        digests: Hashes of their contents, as far as they are known.

    Returns:
        A text for each pair of products and parts that share images.
    """
    by_content: dict[str, list[Use]] = defaultdict(list)
    for use in uses:
        if use.path in digests:
            by_content[digests[use.path]].append(use)
    pairs: dict[tuple[str, str], list[tuple[Path, Path]]] = defaultdict(list)
    for same in by_content.values():
        # one image from each place is enough
        firsts = {(use.product, use.part): use for use in reversed(same)}
        for first, second in combinations(sorted(firsts.values()), 2):
            pairs[place_of(first), place_of(second)].append((first.path, second.path))
    return [describe_pair(*places, paths) for places, paths in sorted(pairs.items())]


def place_of(use: Use) -> str:
    """Where an image is used, in words."""
    return f"{use.part} of {printable(use.product)}"


def describe_pair(place: str, other: str, paths: list[tuple[Path, Path]]) -> str:
    """Describe images that two places share, and name some.

    Example:
        >>> print(describe_pair("test of a", "train of a", [(Path("t/1.png"), Path("g/1.png"))]))
        1 images are in test of a and in train of a, and count in both:
          t/1.png = g/1.png
    """
    lines = [f"{len(paths)} images are in {place} and in {other}, and count in both:"]
    lines += [f"  {printable(a)} = {printable(b)}" for a, b in paths[:NAMED]]
    return "\n".join([*lines, *(["  …"] if len(paths) > NAMED else [])])
