"""What is known of an image, and what every layout of a data set offers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from moleflow_pl.errors import DataError

GOOD = "good"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ImageRecord:
    """One image: where it lies, what it shows.

    Attributes:
        path: The image file.
        product: The product it shows.
        defect: Kind of defect, `good` for none.
        mask: File of the defect's mask; None where there is none, and for good images.
        has_masks: Whether the product has masks, so that a good image counts as all normal.
        expected_mask: Where the mask of a defective image would be.
    """

    path: Path
    product: str
    defect: str = GOOD
    mask: Path | None = None
    has_masks: bool = False
    expected_mask: Path | None = None

    @property
    def lacks_mask(self) -> bool:
        """Whether it is the odd one without a mask in a product that has them."""
        return self.has_masks and self.mask is None and bool(self.gt_label)

    @property
    def gt_label(self) -> int:
        """1 for a defective image, 0 for a good one."""
        return int(self.defect != GOOD)


class Layout(Protocol):
    """How a data set is laid out."""

    def products(self) -> list[str]:
        """Names of the products there are."""

    def train(self, product: str) -> list[ImageRecord]:
        """Good images to learn `product` from."""

    def test(self, product: str) -> list[ImageRecord]:
        """Images to test `product` with, good and defective."""


class RootedLayout:
    """A data set in a folder of its own.

    Args:
        root: That folder.

    Raises:
        DataError: there is no such folder.
    """

    NAME: ClassVar[str]
    TREE: ClassVar[str]  # shown with every error: what is expected, and where the data is had

    def __init__(self, root: str | Path | None) -> None:
        if root is None:
            raise DataError(f"layout {self.NAME!r} needs data.root, a folder; {self.TREE}")
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DataError(f"data.root {self.root} is no folder; {self.TREE}")

    def no_product(self, product: str, there: Iterable[str]) -> DataError:
        """The error that a product is not there, with those that are."""
        return DataError(
            f"no product {product!r} in {self.root}: there are {[*there]}; {self.TREE}"
        )

    def nothing_to_learn(self, product: str, where: Path) -> DataError:
        """The error that a product has no good image."""
        return DataError(f"no image to learn {product!r} from in {where}; {self.TREE}")


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image; hidden files are none.

    Example:
        >>> is_image(Path("0000.JPG")), is_image(Path("._0000.JPG")), is_image(Path("a.txt"))
        (True, False, False)
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Image files in a folder, in order; none where there is no folder."""
    return sorted(filter(is_image, folder.iterdir())) if folder.is_dir() else []


def folders_in(folder: Path) -> list[Path]:
    """Folders in a folder, hidden ones left out, in order."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
