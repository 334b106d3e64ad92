"""The record of an image, and the base of every layout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from moleflow_pl.data.folders import files_below, leads_back
from moleflow_pl.errors import DataError

GOOD = "good"
ROI = "roi.png"  # in a product's folder: the mask of its region of interest
# of several files with one stem, the first of these is the mask
IMAGE_SUFFIXES = (
    ".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg", ".avif", ".heif", ".heic",
)  # fmt: skip


@dataclass(frozen=True)
class ImageRecord:
    """One image: its file, and what it shows.

    Attributes:
        path: The image file.
        product: The product it shows.
        defect: Kind of defect, `good` for none.
        mask: File of the defect's mask; None for good images and where there is none.
        has_masks: Whether the product has masks, so that all pixels of a good image are normal.
        expected_mask: Where the mask of a defective image should be.
    """

    path: Path
    product: str
    defect: str = GOOD
    mask: Path | None = None
    has_masks: bool = False
    expected_mask: Path | None = None

    @property
    def lacks_mask(self) -> bool:
        """Whether a defective image has no mask although its product has masks."""
        return self.has_masks and self.mask is None and bool(self.gt_label)

    @property
    def gt_label(self) -> int:
        """1 for a defective image, 0 for a good one."""
        return int(self.defect != GOOD)


class Layout(Protocol):
    """Lists the images of a data set."""

    def products(self) -> list[str]:
        """Names of the products."""

    def train(self, product: str) -> list[ImageRecord]:
        """Good images to learn `product` from."""

    def test(self, product: str) -> list[ImageRecord]:
        """Images to test `product` with, good and defective."""


Root = str | Path | Mapping[str, str]  # one folder, or that of each product


def describe_root(root: Root | None) -> str:
    """Where a data set is, whatever the working directory is; empty where it is in no folder."""
    folders = root.values() if isinstance(root, Mapping) else [] if root is None else [root]
    return ", ".join(os.path.abspath(Path(folder).expanduser()) for folder in folders)


class RootedLayout:
    """A data set in a folder, or in a folder for each product.

    Args:
        root: The folder, or the folders of the products by their names.

    Attributes:
        name: The name the layout is registered under.
        folders: The folders of the products that were given one by one.
        tree: The expected files, and where to get the data; part of every error.

    Raises:
        DataError: there is no such folder.
    """

    name: ClassVar[str]
    tree: ClassVar[str]

    def __init__(self, root: Root | None) -> None:
        if not root:
            raise DataError(f"layout {self.name!r} needs data.root, a folder; {self.tree}")
        named = root if isinstance(root, Mapping) else {}
        self.folders = {product: Path(folder).expanduser() for product, folder in named.items()}
        places = [folder.absolute().parent for folder in self.folders.values()]
        self.root = Path(os.path.commonpath(places) if places else str(root)).expanduser()
        for folder in (*self.folders.values(), self.root):
            if not folder.is_dir():
                raise DataError(f"data.root {folder} is no folder; {self.tree}")

    def folder_of(self, product: str) -> Path:
        """Where the files of a product are.

        Raises:
            DataError: folders were given one by one, and none for this product.
        """
        if self.folders and product not in self.folders:
            raise self.no_product(product, self.folders)
        return self.folders.get(product, self.root / product)

    def no_product(self, product: str, there: Iterable[str]) -> DataError:
        """The error for a product that is not there, with the list of those that are."""
        return DataError(
            f"no product {product!r} in {self.root}: there are {[*there]}; {self.tree}"
        )

    def nothing_to_learn(self, product: str, where: Path) -> DataError:
        """The error for a product without good images to train on."""
        return DataError(f"no image to learn {product!r} from in {where}; {self.tree}")


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its name; hidden files are not.

    Example:
        >>> is_image(Path("0000.JPG")), is_image(Path("._0000.JPG")), is_image(Path("a.txt"))
        (True, False, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Image files below a folder at any depth, sorted; none where there is no folder."""
    return sorted(filter(is_image, files_below(folder)))


def folders_in(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, without hidden ones and links back to where they lie."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.is_dir() and not leads_back(path))
