"""Which images of a product are for training, for calibration and for testing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from moleflow_pl._internal.hashing import content_hash, file_hashes
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.validation import require_number
from moleflow_pl.data.folders import common_folder
from moleflow_pl.data.integrity import ImageCheck
from moleflow_pl.data.layouts.base import ImageRecord, Layout, Root, RootedLayout
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.data.unused import unused_files
from moleflow_pl.errors import ConfigError, DataError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
LARGEST_VAL_FRACTION = 0.99


def check_calibration_share(val_fraction: float, lots: str | None) -> None:
    """Raise ConfigError unless a share is below 1, and what ends a lot's name is not empty."""
    require_number("val_fraction", val_fraction, 0, LARGEST_VAL_FRACTION)
    if lots is not None and not (isinstance(lots, str) and lots):
        raise ConfigError(
            f"lots must be what ends the name of a lot in a file's name, such as '_', got {lots!r}"
        )


class ProductSplits:
    """The images of each product of a data set, by purpose.

    Calibration images (`val`) are evenly spaced among the good training images, or their lots,
    without randomness.

    Args:
        layout: Name of the layout.
        root: Folder of the data set, or of each product; none for a layout that reads a package.
        val_fraction: Share of each product's good images that is for calibration.
        check: Knows the unusable images, which are left out.
        lots: What ends the name of an image's lot in its path below the folder of the training
            images: `_` in roll7_01.png, `/` in roll7/01.png. Images of a lot have the same purpose.
    """

    def __init__(
        self,
        layout: str,
        root: Root | None,
        val_fraction: float,
        check: ImageCheck,
        lots: str | None = None,
    ) -> None:
        self.layout_name = layout
        self.root = root
        self.val_fraction = val_fraction
        self.check = check
        self.lots = lots

    @property
    def layout(self) -> Layout:
        """The data set on disk, opened again: folders may appear and disappear between tasks."""
        return LAYOUTS[self.layout_name](self.root)

    def records(self, product: str, part: Part) -> list[ImageRecord]:
        """Images of a product for one purpose.

        Raises:
            DataError: the product is missing, or has no image to learn from.
        """
        if part == "test":
            return self.check.usable(self.layout.test(product))
        train, val = self._split(product)
        return train if part == "train" else val

    def _split(self, product: str) -> tuple[list[ImageRecord], list[ImageRecord]]:
        """Good images of a product: those for training, and those for calibration."""
        records = self.check.usable(self.layout.train(product))
        if not records:
            raise DataError(
                f"all training images of {product!r} are unusable: repair or replace them"
            )
        if not self.val_fraction:
            return records, []
        lots = self._lots(product, records)
        count = max(int(len(lots) * self.val_fraction), 1)
        if count == len(lots):
            unit = "good image" if self.lots is None else f"lot by data.lots {self.lots!r}"
            raise DataError(
                f"{product!r} has {len(lots)} {unit}, and data.val_fraction {self.val_fraction} "
                "would take it for calibration: add images, or set data.val_fraction to 0"
            )
        chosen = {(2 * i + 1) * len(lots) // (2 * count) for i in range(count)}
        parts: tuple[list[ImageRecord], list[ImageRecord]] = [], []
        for i, lot in enumerate(lots):
            parts[i in chosen].extend(lot)
        return parts

    def _lots(self, product: str, records: Sequence[ImageRecord]) -> list[list[ImageRecord]]:
        """Images of a product by lot, in the order of the lots' first images."""
        if self.lots is None:
            return [[record] for record in records]
        shared, by_lot = common_folder(r.path for r in records), defaultdict(list)
        for record in records:
            below = record.path.relative_to(shared).as_posix()
            lot, found, _ = below.partition(self.lots)
            if not found:
                raise DataError(
                    f"no lot in {printable(below)}, a training image of {product!r}: its name has "
                    f"no {self.lots!r}, with which data.lots ends the name of a lot"
                )
            by_lot[lot].append(record)
        return list(by_lot.values())

    def count(self, product: str) -> dict[str, int]:
        """Numbers of `train`, `val`, `test_good` and `test_defective` images."""
        train, val = self._split(product)
        labels = [record.gt_label for record in self.records(product, "test")]
        return {
            "train": len(train),
            "val": len(val),
            "test_good": labels.count(0),
            "test_defective": labels.count(1),
        }

    def unused(self, product: str) -> dict[str, list[Path]]:
        """Files of a product's folder that are not used, by the reason why."""
        layout = self.layout
        if not isinstance(layout, RootedLayout) or product not in layout.products():
            return {}
        records = layout.test(product)
        with suppress(DataError):  # training images may be gone
            records = [*records, *layout.train(product)]
        return unused_files(layout.folder_of(product), records)

    def digest(self, products: Iterable[str], facts: Sequence[Any] = ()) -> str:
        """Hash of images and masks: name, content and purpose, but not location.

        Each file is read once in a process.

        Args:
            products: The products whose images to hash.
            facts: Other values to hash.

        Raises:
            DataError: a file cannot be read.
        """
        purposes: list[tuple[str, ...]] = []
        paths: list[Path] = []
        for part in PARTS:
            for record in (r for product in products for r in self.records(product, part)):
                for path in (record.path, record.mask):
                    if path is not None:
                        purposes.append((part, record.product, record.defect, path.name))
                        paths.append(path)
        try:
            return content_hash([*zip(purposes, file_hashes(paths), strict=True), *facts])
        except OSError as error:
            raise DataError(
                f"cannot read {error.filename}: {error.strerror}; repair or remove the file"
            ) from error
