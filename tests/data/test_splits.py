import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from moleflow_pl.data.integrity import ImageCheck
from moleflow_pl.data.splits import PARTS, ProductSplits
from moleflow_pl.errors import DataError
from tests.helpers.products import draw_product


def splits_of(root: Path, val_fraction: float = 0.34) -> ProductSplits:
    return ProductSplits("mvtec", str(root), val_fraction, ImageCheck())


def test_calibration_images_are_spread_over_the_good_ones_and_none_is_used_twice(
    data_root: Path,
) -> None:
    splits = splits_of(data_root)
    train, val = (splits.records("b", part) for part in ("train", "val"))
    assert [record.path.name for record in val] == ["001.png", "004.png"]
    assert len({record.path for record in train + val}) == 6
    assert splits_of(data_root, 0.0).records("b", "val") == []


def lots_of(
    root: Path, names: Sequence[str], lots: str, val_fraction: float = 0.34
) -> ProductSplits:
    """Splits of one product with empty training images of these names."""
    for name in names:
        path = root / "a" / "train" / "good" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return ProductSplits("mvtec", str(root), val_fraction, ImageCheck("stop"), lots)


def test_calibration_images_are_whole_lots(tmp_path: Path) -> None:
    names = [f"roll{roll}_{i}_x.png" for roll in (1, 2, 3, 4) for i in range(roll)]
    splits = lots_of(tmp_path, names, "_", 0.5)
    of = {part: {r.path.name[:5] for r in splits.records("a", part)} for part in ("train", "val")}
    assert of == {"train": {"roll1", "roll3"}, "val": {"roll2", "roll4"}}
    assert len(splits.records("a", "train")) + len(splits.records("a", "val")) == len(names)


def test_a_lot_may_be_a_folder(tmp_path: Path) -> None:
    splits = lots_of(tmp_path, [f"roll {lot}/{i}.png" for lot in "abc" for i in range(3)], "/")
    assert {r.path.parent.name for r in splits.records("a", "val")} == {"roll b"}
    assert {r.path.parent.name for r in splits.records("a", "train")} == {"roll a", "roll c"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["roll1_1.png", "other.png"], r"no lot in other.png, a training image of 'a'.*no '_'"),
        (["roll1_1.png", "roll1_2.png"], "'a' has 1 lot by data.lots '_', and data.val_fraction"),
    ],
)
def test_images_without_lots_to_choose_from_are_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        lots_of(tmp_path, names, "_").records("a", "train")


def test_counts_are_those_of_the_parts(data_root: Path) -> None:
    counts = splits_of(data_root).count("b")
    assert counts == {"train": 4, "val": 2, "test_good": 3, "test_defective": 3}


def test_hash_follows_names_purpose_and_contents_but_not_the_place(tmp_path: Path) -> None:
    draw_product(tmp_path / "one", "a", 0)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    digest = splits_of(tmp_path / "one").digest(["a"])
    assert splits_of(tmp_path / "two").digest(["a"]) == digest
    assert splits_of(tmp_path / "two", 0.0).digest(["a"]) != digest
    for part in ("train/good/000.png", "test/good/000.png", "ground_truth/*/*_mask.png"):
        path = next((tmp_path / "two" / "a").glob(part))
        before = path.read_bytes()
        path.write_bytes(before[::-1])
        assert splits_of(tmp_path / "two").digest(["a"]) != digest
        path.write_bytes(before)
        assert splits_of(tmp_path / "two").digest(["a"]) == digest
    (tmp_path / "two" / "a" / "test" / "good" / "000.png").unlink()
    assert splits_of(tmp_path / "two").digest(["a"]) != digest


def test_product_that_is_not_there_has_no_part(data_root: Path) -> None:
    for part in PARTS:
        with pytest.raises(DataError, match="no product 'nothing'"):
            splits_of(data_root).records("nothing", part)
