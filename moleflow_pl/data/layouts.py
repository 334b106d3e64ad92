"""Where the images of a data set lie, and what each of them is."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from moleflow_pl.errors import DataError
from moleflow_pl.schedule import GROUP_JOINT

GOOD = "good"
LONGEST_NAME = 200  # bytes: a checkpoint's file has a number and an ending as well
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


def images_in(folder: Path) -> list[Path]:
    """Image files in a folder, hidden ones left out, in order."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def folders_in(folder: Path) -> list[Path]:
    """Folders in a folder, hidden ones left out, in order."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


class MVTecLayout:
    """`<root>/<product>/train/good`, `test/<defect>`, `ground_truth/<defect>/<stem>_mask.png`.

    Raises:
        DataError: `root` is missing or holds no product.
    """

    TREE = """the expected tree:
    <root>/<product>/train/good/*.png                    good images to learn from
    <root>/<product>/test/good/*.png                     good images to test with
    <root>/<product>/test/<defect>/*.png                 defective images to test with
    <root>/<product>/ground_truth/<defect>/*_mask.png    their masks (optional)
MVTec AD itself: https://www.mvtec.com/company/research/datasets/mvtec-ad"""

    def __init__(self, root: str | Path | None) -> None:
        if root is None:
            raise DataError(
                f"layout 'mvtec' needs data.root, the folder of the products; {self.TREE}"
            )
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DataError(f"data.root {self.root} is no folder; {self.TREE}")

    def products(self) -> list[str]:
        return [folder.name for folder in folders_in(self.root) if self._is_product(folder)]

    def train(self, product: str) -> list[ImageRecord]:
        folder = self._folder(product) / "train" / GOOD
        records = [ImageRecord(path, product) for path in images_in(folder)]
        if not records:
            raise DataError(f"no image to learn {product!r} from in {folder}; {self.TREE}")
        return records

    def test(self, product: str) -> list[ImageRecord]:
        folder = self._folder(product)
        masks = folder / "ground_truth"
        if not (folder / "test").is_dir():
            return []
        return [
            self._test_record(path, product, kind.name, masks)
            for kind in folders_in(folder / "test")
            for path in images_in(kind)
        ]

    @staticmethod
    def _test_record(path: Path, product: str, defect: str, masks: Path) -> ImageRecord:
        if defect == GOOD or not masks.is_dir():
            return ImageRecord(path, product, defect, has_masks=masks.is_dir())
        # MVTec's own name first; some sets in this layout keep the image's
        places = [masks / defect / name for name in (f"{path.stem}_mask.png", f"{path.stem}.png")]
        found = next((place for place in places if place.is_file()), None)
        return ImageRecord(path, product, defect, found, True, places[0])

    @staticmethod
    def _is_product(folder: Path) -> bool:
        # training images may be gone while those to test with are kept
        return (folder / "train").is_dir() or (folder / "test").is_dir()

    def _folder(self, product: str) -> Path:
        folder = self.root / product
        if not self._is_product(folder):
            raise DataError(
                f"no product {product!r} in {self.root}: there are {self.products()}; {self.TREE}"
            )
        return folder


class ELPVLayout:
    """Solar cells of the package `elpv-dataset`, by its labels: `solar_mono` and `solar_poly`.

    Cells with defect probability 0 are good and those with 1 defective; the two kinds between are
    left out, for nobody knows. Of the good cells of a product, in the package's order, every second
    one, from the first on, is for learning; the others and all defective ones are for testing.

    References: Deitsch et al. 2019, arXiv:1807.02894; Buerhop-Lutz et al. 2018.

    Raises:
        DataError: the package is not installed, or a `root` was given.
    """

    KINDS: ClassVar[dict[str, str]] = {"solar_mono": "mono", "solar_poly": "poly"}
    DEFECT = "defective"

    def __init__(self, root: str | Path | None = None) -> None:
        if root is not None:
            raise DataError(
                "layout 'elpv' reads the package elpv-dataset and takes no data.root; for folders "
                "of your own add --data.layout mvtec"
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


def check_name(name: str) -> None:
    """Refuse what cannot be both a folder's name and part of a file's, here and elsewhere.

    Raises:
        DataError: empty or blank at an end, `.` or `..`, with a slash, a backslash or a control
            character, or longer than 200 bytes in UTF-8.

    Example:
        >>> check_name("Schraube M3 <b>'neu'</b>".replace("/", "|"))
    """
    printable = all(unicodedata.category(character) != "Cc" for character in name)
    encodable = not any(0xD800 <= ord(character) <= 0xDFFF for character in name)
    good = name == name.strip() and name not in {"", ".", ".."} and not set(name) & set("/\\")
    if not (good and printable and encodable and len(name.encode()) <= LONGEST_NAME):
        shown = name if len(name) <= 40 else f"{name[:40]}…"
        raise DataError(
            f"{shown!r} is no name for a product: it has to be a folder's name of at most "
            f"{LONGEST_NAME} bytes, without slashes, control characters and blanks at its ends"
        )


LayoutName = Literal["mvtec", "elpv"]
LAYOUTS: dict[str, Callable[[str | None], Layout]] = {
    "mvtec": MVTecLayout,
    "elpv": ELPVLayout,
}


def task_groups(tasks: Iterable[str | int | list[str | int]]) -> list[list[str]]:
    """A task list as lists of product names, checked.

    Raises:
        DataError: no task, an empty group, a product named twice, or a name no file can have.

    Example:
        >>> task_groups(["leather", ["grid", "tile"]])
        [['leather'], ['grid', 'tile']]
    """
    groups = [
        [str(name) for name in (task if isinstance(task, list) else [task])] for task in tasks
    ]
    names = [name for group in groups for name in group]
    if not groups or not all(groups):
        raise DataError(f"data.tasks needs at least one product in every task, got {groups}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"data.tasks names {twice} more than once: each product is learned once")
    for group in groups:
        for name in group:
            check_name(name)
        if len(GROUP_JOINT.join(group).encode()) > LONGEST_NAME:
            raise DataError(
                f"the names of a task's products, {GROUP_JOINT.join(group)[:40]}…, are longer than "
                f"{LONGEST_NAME} bytes together, and its checkpoint is called by them: shorten them"
            )
    tasks_named = [GROUP_JOINT.join(group) for group in groups]
    if len(set(tasks_named)) < len(tasks_named):
        raise DataError(f"two tasks of data.tasks have one name: {tasks_named}")
    return groups
