"""VisA: a CSV file lists the images and their masks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

from moleflow_pl._internal.files import regular
from moleflow_pl.data.layouts.base import GOOD, ImageRecord, RootedLayout
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import DataError


@LAYOUTS.add("visa")
class VisALayout(RootedLayout):
    """VisA as unpacked, split by its list for one-class training `split_csv/1cls.csv`.

    References: Zou et al. 2022, "SPot-the-Difference", arXiv:2207.14315.

    Raises:
        DataError: `root`, the list or an image is missing, or the list has other columns.
    """

    tree: ClassVar[str] = """the expected tree:
    <root>/split_csv/1cls.csv                       object,split,label,image,mask
    <root>/candle/Data/Images/Normal/*.JPG          as the list names them
    <root>/candle/Data/Images/Anomaly/*.JPG
    <root>/candle/Data/Masks/Anomaly/*.png
VisA itself: https://github.com/amazon-science/spot-diff"""
    LIST: ClassVar[str] = "split_csv/1cls.csv"
    COLUMNS: ClassVar[set[str]] = {"object", "split", "label", "image", "mask"}
    NORMAL: ClassVar[str] = "normal"

    def __init__(self, root: str | Path | None) -> None:
        super().__init__(root)
        path = self.root / self.LIST
        if not path.exists():
            raise DataError(f"the list {path} is missing; {self.tree}")
        try:
            with regular(path).open(newline="", encoding="utf-8-sig") as file:
                rows = csv.DictReader(file, restval="")
                if self.COLUMNS - set(rows.fieldnames or ()):
                    raise DataError(
                        f"{path} has the columns {rows.fieldnames}, not {sorted(self.COLUMNS)}; "
                        f"{self.tree}"
                    )
                self.rows = list(rows)
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}; unpack the data set again"
            ) from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{path} is damaged or not CSV in UTF-8: {error}; unpack the data set again"
            ) from error

    def products(self) -> list[str]:
        return sorted({row["object"] for row in self.rows})

    def train(self, product: str) -> list[ImageRecord]:
        # train on good images alone, even if the user's own list holds others
        records = [record for record in self._records(product, "train") if not record.gt_label]
        if not records:
            raise self.nothing_to_learn(product, self.root / self.LIST)
        return records

    def test(self, product: str) -> list[ImageRecord]:
        return self._records(product, "test")

    def _records(self, product: str, split: str) -> list[ImageRecord]:
        if product not in self.products():
            raise self.no_product(product, self.products())
        rows = [row for row in self.rows if row["object"] == product and row["split"] == split]
        has_masks = any(row["mask"] for row in rows)
        return sorted((self._record(row, has_masks) for row in rows), key=lambda r: r.path)

    def _record(self, row: dict[str, str], has_masks: bool) -> ImageRecord:
        path = self.root / row["image"]
        if not path.is_file():
            raise DataError(
                f"{self.root / self.LIST} names {path}, which does not exist: unpack the data set "
                "again, or remove the line from the list"
            )
        if row["label"] == self.NORMAL:
            return ImageRecord(path, row["object"], GOOD, None, has_masks)
        if not has_masks:
            return ImageRecord(path, row["object"], row["label"])
        # without a mask in the line, the list is where to add one
        expected = self.root / (row["mask"] or self.LIST)
        mask = expected if row["mask"] and expected.is_file() else None
        return ImageRecord(path, row["object"], row["label"], mask, True, expected)
