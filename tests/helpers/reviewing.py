"""A run to review, made of the kept checkpoint, and reviews of drawn images."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

KEPT = Path(__file__).parents[1] / "formats" / "schema1" / "last.ckpt"


def kept_run(folder: Path) -> Path:
    """The last checkpoint of a run of the products `01` and `b`, whose score has memory banks."""
    folder.mkdir()
    return Path(shutil.copy(KEPT, folder / "last.ckpt"))


def images_of(root: Path, product: str, kind: str) -> list[Path]:
    """The test images of a product."""
    return sorted((root / product / "test" / kind).glob("*.png"))


def write_reviews(table: Path, rows: Sequence[tuple[object, ...]]) -> Path:
    """A table of reviews."""
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "product", "label", "verdict"))
        writer.writerows(rows)
    return table


def usual_reviews(root: Path, product: str = "b") -> list[tuple[object, ...]]:
    """Two false alarms, a good image that was called normal, and defects: one was missed."""
    good, bad = images_of(root, product, "good"), images_of(root, product, "square")
    return [
        *((path, product, "anomalous", "false_alarm") for path in good[:2]),
        (good[2], product, "normal", "right"),
        *((path, product, "anomalous", "right") for path in bad[:2]),
        (bad[2], product, "normal", "missed_defect"),
    ]
