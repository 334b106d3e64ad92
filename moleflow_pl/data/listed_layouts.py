"""Data sets that come with a list of their images."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import ClassVar

from moleflow_pl.data.records import GOOD, ImageRecord, RootedLayout
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


class ELPVLayout:
    """Solar cells of the package `elpv-dataset`, by its labels: `solar_mono` and `solar_poly`.

    Cells with defect probability 0 are good and those with 1 defective; the two kinds between are
    left out, for nobody knows. Of the good cells of a product, in the package's order, every second
    one, from the first on, is for learning; the others and all defective ones are for testing.

    References: Deitsch et al. 2019, arXiv:1807.02894; Buerhop-Lutz et al. 2018.

    Raises:
        DataError: the package is not installed, or a `root` was given.
    """

    NAME: ClassVar[str] = "elpv"
    KINDS: ClassVar[dict[str, str]] = {"solar_mono": "mono", "solar_poly": "poly"}
    DEFECT = "defective"

    def __init__(self, root: str | Path | None = None) -> None:
        if root is not None:
            raise DataError(
                "layout 'elpv' reads the package elpv-dataset and takes no data.root; for folders "
                "of your own add --data.layout mvtec, or folder where all images are good"
            )
        spec = importlib.util.find_spec("elpv_dataset")
        if spec is None or spec.origin is None:
            raise DataError("layout 'elpv' needs the package elpv-dataset: pip install '.[demo]'")
        self.root = Path(spec.origin).parent / "data"

    def products(self) -> list[str]:
        return list(self.KINDS)

    def train(self, product: str) -> list[ImageRecord]:
        return [ImageRecord(path, product) for path in self._cells(product, 0.0)[::2]]

    def test(self, product: str) -> list[ImageRecord]:
        good = self._cells(product, 0.0)[1::2]
        defective = self._cells(product, 1.0)
        return [ImageRecord(path, product) for path in good] + [
            ImageRecord(path, product, self.DEFECT) for path in defective
        ]

    def _cells(self, product: str, probability: float) -> list[Path]:
        if product not in self.KINDS:
            raise DataError(f"no product {product!r} in elpv-dataset: there are {self.products()}")
        rows = [
            line.split() for line in (self.root / "labels.csv").read_text().splitlines() if line
        ]
        return [
            self.root / path
            for path, value, kind in rows
            if kind == self.KINDS[product] and float(value) == probability
        ]
