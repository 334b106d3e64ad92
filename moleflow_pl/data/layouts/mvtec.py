"""MVTec AD and its relatives: an image's folder names its product and its defect."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from moleflow_pl.data.layouts.base import (
    GOOD,
    IMAGE_SUFFIXES,
    ImageRecord,
    RootedLayout,
    folders_in,
    images_in,
)
from moleflow_pl.data.layouts.registry import LAYOUTS


@LAYOUTS.add("mvtec")
class MVTecLayout(RootedLayout):
    """`<root>/<product>/train/good`, `test/<defect>`, `ground_truth/<defect>/<stem>_mask.png`.

    Folders within these are searched too; masks then lie in folders of the same names. A mask may
    have any suffix of an image.

    Raises:
        DataError: `root` is missing, or holds no product in this layout.
    """

    tree: ClassVar[str] = """the expected tree:
    <root>/<product>/train/good/*.png                    good images to learn from
    <root>/<product>/test/good/*.png                     good images to test with
    <root>/<product>/test/<defect>/*.png                 defective images to test with
    <root>/<product>/ground_truth/<defect>/*_mask.png    their masks (optional)
    <root>/<product>/roi.png                             region of interest (optional)
MVTec AD itself: https://www.mvtec.com/company/research/datasets/mvtec-ad
good images alone, one folder for each product: --data.layout folder"""
    NORMAL: ClassVar[str] = "good"  # name of a folder of good images
    TEST: ClassVar[str] = "test"
    MASKS: ClassVar[str] = "ground_truth"
    # as in MVTec AD, or equal to the image's name as in other data sets
    MASK_STEMS: ClassVar[tuple[str, ...]] = ("{}_mask", "{}")

    def products(self) -> list[str]:
        folders = self.folders or {folder.name: folder for folder in folders_in(self.root)}
        return [product for product, folder in folders.items() if self._is_product(folder)]

    def train(self, product: str) -> list[ImageRecord]:
        folder = self._folder(product) / "train" / self.NORMAL
        records = [ImageRecord(path, product) for path in images_in(folder)]
        if not records:
            raise self.nothing_to_learn(product, folder)
        return records

    def test(self, product: str) -> list[ImageRecord]:
        folder = self._folder(product)
        masks = folder / self.MASKS
        if not (folder / self.TEST).is_dir():
            return []
        return [
            record
            for kind in folders_in(folder / self.TEST)
            if kind != masks
            for record in self._records(product, kind, masks)
        ]

    def _records(self, product: str, kind: Path, masks: Path) -> list[ImageRecord]:
        paths, has_masks = images_in(kind), masks.is_dir()
        if kind.name == self.NORMAL or not has_masks:
            defect = GOOD if kind.name == self.NORMAL else kind.name
            return [ImageRecord(path, product, defect, None, has_masks) for path in paths]
        mask_files = by_stem(masks / kind.name)
        records = []
        for path in paths:
            place = masks / kind.name / path.relative_to(kind).parent
            stems = [place / stem.format(path.stem) for stem in self.MASK_STEMS]
            mask = next((mask_files[stem] for stem in stems if stem in mask_files), None)
            expected = stems[0].with_name(f"{stems[0].name}.png")
            records.append(ImageRecord(path, product, kind.name, mask, True, expected))
        return records

    def _is_product(self, folder: Path) -> bool:
        # training images may be deleted while test images are kept
        return (folder / "train").is_dir() or (folder / self.TEST).is_dir()

    def _folder(self, product: str) -> Path:
        folder = self.folder_of(product)
        if not self._is_product(folder):
            raise self.no_product(product, self.products())
        return folder


def by_stem(folder: Path) -> dict[Path, Path]:
    """Image files below a folder, by their paths without suffix."""
    paths = sorted(images_in(folder), key=lambda path: -IMAGE_SUFFIXES.index(path.suffix.lower()))
    return {path.with_suffix(""): path for path in paths}


@LAYOUTS.add("mpdd")
class MPDDLayout(MVTecLayout):
    """MPDD, metal parts: the tree of MVTec AD.

    References: Jezek et al. 2021, "Deep learning-based defect detection of metal parts", ICUMT.
    """

    tree: ClassVar[str] = """the expected tree:
    <root>/bracket_black/train/good/*.png
    <root>/bracket_black/test/good/*.png, test/<defect>/*.png
    <root>/bracket_black/ground_truth/<defect>/*_mask.png
MPDD itself: https://github.com/stepanje/MPDD"""


@LAYOUTS.add("mvtec2")
class MVTec2Layout(MVTecLayout):
    """MVTec AD 2: trains on `train/good`, tests on `test_public`, whose labels are public.

    `validation/good` and the private parts are not used.

    References: Heckler-Kram et al. 2025, arXiv:2503.21622.
    """

    tree: ClassVar[str] = """the expected tree:
    <root>/can/train/good/*.png
    <root>/can/test_public/good/*.png, test_public/bad/*.png
    <root>/can/test_public/ground_truth/bad/*_mask.png
MVTec AD 2 itself: https://www.mvtec.com/company/research/datasets/mvtec-ad-2"""
    TEST: ClassVar[str] = "test_public"
    MASKS: ClassVar[str] = "test_public/ground_truth"


@LAYOUTS.add("btad")
class BTADLayout(MVTecLayout):
    """BTAD (beanTech): good images in `ok`, defective ones in `ko`; a mask has its image's name.

    References: Mishra et al. 2021, VT-ADL, arXiv:2104.10036.
    """

    tree: ClassVar[str] = """the expected tree, in the archive's folder BTech_Dataset_transformed:
    <root>/01/train/ok/*.bmp
    <root>/01/test/ok/*.bmp, test/ko/*.bmp
    <root>/01/ground_truth/ko/*.png
BTAD itself: http://avires.dimi.uniud.it/papers/btad/btad.zip"""
    NORMAL: ClassVar[str] = "ok"
    MASK_STEMS: ClassVar[tuple[str, ...]] = ("{}",)
