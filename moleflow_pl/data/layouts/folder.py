"""Good images alone, one folder for each product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from moleflow_pl.data.folders import files_below
from moleflow_pl.data.layouts.base import (
    ROI,
    ImageRecord,
    RootedLayout,
    folders_in,
    is_image,
)
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import DataError


@LAYOUTS.add("folder")
class FolderLayout(RootedLayout):
    """Good images alone: every folder in `root` is a product, and all images below it are good.

    A `root` that holds images and no folder of images is itself one product, of the folder's name.
    There are no test images. A `roi.png` in a product's folder is its region of interest.

    Raises:
        DataError: a product's folder looks like another layout, whose images may be defective.
    """

    tree: ClassVar[str] = """the expected tree:
    <root>/<product>/**/*.png    good images to learn from, at any depth
with defective images or masks: lay them out as in MVTec AD, --data.layout mvtec"""
    good_alone: ClassVar[bool] = True
    PARTS: ClassVar[set[str]] = {"train", "test", "test_public", "ground_truth"}

    def products(self) -> list[str]:
        folders = self.folders or {folder.name: folder for folder in folders_in(self.root)}
        products = [name for name, folder in folders.items() if next(self._images(folder), None)]
        if self.folders:
            return products
        return products or ([self.root.resolve().name] if self._holds_images() else [])

    def train(self, product: str) -> list[ImageRecord]:
        if product not in self.products():
            raise self.no_product(product, self.products())
        folder = self.folder_of(product)
        parts = sorted(self.PARTS & {path.name for path in folders_in(folder)})
        if parts:
            raise DataError(
                f"{folder} has folders {parts}, and layout 'folder' would treat all images below "
                "it as good: use --data.layout mvtec, or give the folder of the good images"
            )
        return [ImageRecord(path, product) for path in sorted(self._images(folder))]

    def folder_of(self, product: str) -> Path:
        folder = super().folder_of(product)
        return folder if folder.is_dir() else self.root

    def test(self, product: str) -> list[ImageRecord]:
        return []

    def _holds_images(self) -> bool:
        images = (path for path in self.root.iterdir() if is_image(path) and path.name != ROI)
        return any(path.is_file() for path in images)

    @staticmethod
    def _images(folder: Path) -> Iterator[Path]:
        images = filter(is_image, files_below(folder))
        return (path for path in images if path != folder / ROI)
