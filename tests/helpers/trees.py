"""Data sets of tiny images, laid out by hand."""

from pathlib import Path

from PIL import Image

from moleflow_pl.data.layouts.base import ImageRecord


def plant(root: Path, *names: str) -> Path:
    """Tiny images at the places named."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(path)
    return root


def seen(root: Path, records: list[ImageRecord]) -> list[tuple[str, str, str | None]]:
    """Where each image lies, what it shows, and its mask."""
    return [
        (
            r.path.relative_to(root).as_posix(),
            r.defect,
            None if r.mask is None else r.mask.relative_to(root).as_posix(),
        )
        for r in records
    ]
