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
# suffixes of images; if masks share a stem, the earlier suffix wins
IMAGE_SUFFIXES = (
    ".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg", ".avif", ".heif", ".heic",
)  # fmt: skip


@dataclass(frozen=True)
class ImageRecord:
    """An image file and what it shows.

    Attributes:
        path: The image file.
        product: The product it shows.
        defect: Kind of defect, `good` for none.
        mask: File of the defect's mask; None for good images and without a mask.
        has_masks: Whether the product has masks, so that all pixels of a good image are normal.
        expected_mask: Where the mask of a defective image is expected.
        variant: How a good image is changed, see `variants`; None for unchanged.
    """

    path: Path
    product: str
    defect: str = GOOD
    mask: Path | None = None
    has_masks: bool = False
    expected_mask: Path | None = None
    variant: str | None = None

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


Root = str | Path | Mapping[str, str]  # one folder, or a folder by product


def describe_root(root: Root | None) -> str:
    """Absolute paths of a data set's folders; empty for a data set without a folder."""
    folders = root.values() if isinstance(root, Mapping) else [] if root is None else [root]
    return ", ".join(os.path.abspath(Path(folder).expanduser()) for folder in folders)


class RootedLayout:
    """A data set in a folder, or in a folder for each product.

    Args:
        root: The folder, or the folders of the products by name.

    Attributes:
        name: The name the layout is registered under.
        folders: The folders of products, if they were given by name.
        tree: The expected files, and where to get the data; part of every error message.
        good_alone: Whether it has no test images.

    Raises:
        DataError: the folder does not exist.
    """

    name: ClassVar[str]
    tree: ClassVar[str]
    good_alone: ClassVar[bool] = False

    def __init__(self, root: Root | None) -> None:
        if not root:
            raise DataError(f"layout {self.name!r} needs a folder as data.root; {self.tree}")
        named = root if isinstance(root, Mapping) else {}
        self.folders = {product: Path(folder).expanduser() for product, folder in named.items()}
        places = [folder.absolute().parent for folder in self.folders.values()]
        self.root = Path(os.path.commonpath(places) if places else str(root)).expanduser()
        for folder in (*self.folders.values(), self.root):
            if not folder.is_dir():
                raise DataError(f"data.root {folder} is not a folder; {self.tree}")

    def folder_of(self, product: str) -> Path:
        """The folder of a product.

        Raises:
            DataError: folders were given by name, and none for this product.
        """
        if self.folders and product not in self.folders:
            raise self.no_product(product, self.folders)
        return self.folders.get(product, self.root / product)

    def no_product(self, product: str, there: Iterable[str]) -> DataError:
        """The error for a missing product, with the list of those that exist."""
        return DataError(f"no product {product!r} in {self.root}: it has {[*there]}; {self.tree}")

    def nothing_to_learn(self, product: str, where: Path) -> DataError:
        """The error for a product without good images to train on."""
        return DataError(f"no image to learn {product!r} from in {where}; {self.tree}")


def is_image(path: Path) -> bool:
    """Whether a file name is that of an image; hidden files do not count.

    Example:
        >>> is_image(Path("0000.JPG")), is_image(Path("._0000.JPG")), is_image(Path("a.txt"))
        (True, False, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Image files below a folder at any depth, sorted; empty without a folder."""
    return sorted(filter(is_image, files_below(folder)))


def folders_in(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, without hidden ones and links to their own parents."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.is_dir() and not leads_back(path))
