"""ELPV: photographs of solar cells, from the package `elpv-dataset`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar

from moleflow_pl._internal.files import regular
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import DataError


@LAYOUTS.add("elpv")
class ELPVLayout:
    """Solar cells of the package `elpv-dataset`, by its labels: `solar_mono` and `solar_poly`.

    Cells with defect probability 0 are good, those with 1 defective; cells between are left out as
    uncertain. Of a product's good cells, in the package's order, the first and every second one
    after it are for training; the others and all defective cells are for testing.

    References: Deitsch et al. 2019, arXiv:1807.02894; Buerhop-Lutz et al. 2018.

    Raises:
        DataError: the package is not installed, or a `root` was given.
    """

    KINDS: ClassVar[dict[str, str]] = {"solar_mono": "mono", "solar_poly": "poly"}
    DEFECT = "defective"

    def __init__(self, root: str | Path | None = None) -> None:
        if root is not None:
            raise DataError(
                "layout 'elpv' reads the package elpv-dataset and takes no data.root; for your own "
                "folders set --data.layout mvtec, or folder if all images are good"
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
            raise DataError(f"no product {product!r} in elpv-dataset: it has {self.products()}")
        rows = [
            line.split()
            for line in regular(self.root / "labels.csv").read_text("utf-8").splitlines()
            if line
        ]
        return [
            self.root / path
            for path, value, kind in rows
            if kind == self.KINDS[product] and float(value) == probability
        ]
