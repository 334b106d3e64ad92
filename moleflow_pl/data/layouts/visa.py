"""Data sets that come with a list of their images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

from moleflow_pl.data.layouts.base import GOOD, ImageRecord, RootedLayout
from moleflow_pl.errors import DataError


class VisALayout(RootedLayout):
    """VisA as it is unpacked, split by its own list for one-class learning, `split_csv/1cls.csv`.

    References: Zou et al. 2022, "SPot-the-Difference", arXiv:2207.14315.

    Raises:
        DataError: `root` or the list is missing, or the list has other columns.
    """

    NAME: ClassVar[str] = "visa"
    TREE: ClassVar[str] = """the expected tree:
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
        if not path.is_file():
            raise DataError(f"no list {path}; {self.TREE}")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if self.COLUMNS - set(rows.fieldnames or ()):
                raise DataError(f"{path} has the columns {rows.fieldnames}; {self.TREE}")
            self.rows = list(rows)

    def products(self) -> list[str]:
        return sorted({row["object"] for row in self.rows})

    def train(self, product: str) -> list[ImageRecord]:
        # only good ones are learned from, whatever a list of one's own says
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
                f"{self.root / self.LIST} names {path}, which is not there: unpack the data set "
                "anew, or take the line out of the list"
            )
        if row["label"] == self.NORMAL:
            return ImageRecord(path, row["object"], GOOD, None, has_masks)
        if not has_masks:
            return ImageRecord(path, row["object"], row["label"])
        # a line without one: the list is where it would stand
        expected = self.root / (row["mask"] or self.LIST)
        mask = expected if row["mask"] and expected.is_file() else None
        return ImageRecord(path, row["object"], row["label"], mask, True, expected)
