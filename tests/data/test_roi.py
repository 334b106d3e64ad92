from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.data.integrity import ImageCheck
from moleflow_pl.data.layouts.base import ROI
from moleflow_pl.data.roi import check_roi, read_roi
from moleflow_pl.data.splits import ProductSplits
from moleflow_pl.errors import ConfigError, DataError
from tests.helpers.products import SIZE, draw_product


def draw_mask(path: Path, left: int = SIZE // 3, shape: tuple[int, int] = (SIZE, SIZE)) -> Path:
    """A mask that is white from a column on."""
    mask = np.zeros(shape, np.uint8)
    mask[:, left:] = 255
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def splits(tmp_path: Path) -> ProductSplits:
    for seed, name in enumerate("ab"):
        draw_product(tmp_path, name, seed)
    return ProductSplits("mvtec", str(tmp_path), 0.1, ImageCheck())


RIGHT = [[False, True, True]] * 3


def test_a_mask_in_a_products_folder_is_its_region(splits: ProductSplits) -> None:
    assert read_roi(splits, ["a"], (3, 3)).all()
    draw_mask(Path(str(splits.root)) / "a" / ROI)
    assert read_roi(splits, ["a"], (3, 3)).tolist() == RIGHT
    assert read_roi(splits, ["b"], (3, 3)).all()
    assert not splits.unused("a")


def test_a_mask_that_is_given_comes_first(splits: ProductSplits, tmp_path: Path) -> None:
    draw_mask(Path(str(splits.root)) / "a" / ROI, left=0)
    given = str(draw_mask(tmp_path / "one.png", shape=(2 * SIZE, 2 * SIZE), left=SIZE // 3 * 2))
    for roi in (given, {"a": given}):
        assert read_roi(splits, ["a"], (3, 3), roi).tolist() == RIGHT
    assert read_roi(splits, ["b"], (3, 3), {"a": given}).all()


def test_masks_that_cannot_be_used_say_why(splits: ProductSplits, tmp_path: Path) -> None:
    oblong = str(draw_mask(tmp_path / "oblong.png", shape=(SIZE, 2 * SIZE)))
    with pytest.raises(DataError, match="has 96 x 48 pixels, and .*png has 48 x 48"):
        read_roi(splits, ["a"], (3, 3), oblong)
    empty = str(draw_mask(tmp_path / "empty.png", left=SIZE))
    with pytest.raises(DataError, match="empty.png leaves nothing: .*enlarge it"):
        read_roi(splits, ["a"], (3, 3), empty)
    with pytest.raises(DataError, match="cannot read the image .*none.png"):
        read_roi(splits, ["a"], (3, 3), str(tmp_path / "none.png"))
    with pytest.raises(ConfigError, match=r"masks for \['c'\], .* the products \['a', 'b'\]"):
        check_roi({"c": empty}, [["a"], ["b"]])


def test_products_learned_at_once_share_their_region(splits: ProductSplits) -> None:
    draw_mask(Path(str(splits.root)) / "a" / ROI)
    with pytest.raises(DataError, match="their masks differ"):
        read_roi(splits, ["a", "b"], (3, 3))
    draw_mask(Path(str(splits.root)) / "b" / ROI)
    assert torch.equal(read_roi(splits, ["a", "b"], (3, 3)), torch.tensor(RIGHT))


def test_a_mask_is_no_image_of_a_folder_of_good_images(tmp_path: Path) -> None:
    for place in ("a/1.png", "a/2.png", "a/deep/roi.png"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_mask(path)
    draw_mask(tmp_path / "a" / ROI)
    splits = ProductSplits("folder", str(tmp_path), 0.0, ImageCheck())
    names = [str(r.path.relative_to(tmp_path)) for r in splits.records("a", "train")]
    assert names == ["a/1.png", "a/2.png", "a/deep/roi.png"]
    assert read_roi(splits, ["a"], (3, 3)).tolist() == RIGHT
