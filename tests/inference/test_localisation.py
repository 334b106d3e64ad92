from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.inference.localisation import (
    Box,
    defect_mask,
    find_boxes,
    pixel_map,
    save_map,
    save_mask,
)


def test_pixels_never_exceed_the_patches() -> None:
    patches = torch.randn(5, 7)
    scores = pixel_map(patches, (60, 91))
    assert scores.shape == (60, 91)
    assert patches.min() <= scores.min() < scores.max() <= patches.max()


def test_boxes_surround_what_has_half_of_its_regions_height() -> None:
    scores = torch.zeros(20, 30)
    scores[2:5, 3:9] = 1
    scores[4, 5] = 4
    scores[10:12, 20:30] = 2
    assert find_boxes(scores, 0.5) == [Box(5, 4, 1, 1, 4.0), Box(20, 10, 10, 2, 2.0)]
    scores[4, 5] = 1.5  # now half of the height is within the region
    assert find_boxes(scores, 0.5) == [Box(20, 10, 10, 2, 2.0), Box(3, 2, 6, 3, 1.5)]
    assert find_boxes(scores, 4) == []


@pytest.mark.parametrize("threshold", [-5.0, 0.5])
def test_nothing_of_a_map_below_the_threshold_is_a_defect(threshold: float) -> None:
    assert not defect_mask(torch.full((4, 5), threshold), threshold).any()


def test_a_smooth_bump_is_cut_at_half_of_its_height() -> None:
    side = torch.arange(-30, 31)
    squared = side[:, None] ** 2 + side**2
    scores = 1 + 8 * torch.exp(-squared / (2 * 10.0**2))
    mask = torch.from_numpy(defect_mask(scores, 1.0 + 1e-6))
    assert torch.equal(mask, scores >= 5)
    (box,) = find_boxes(scores, 1.0 + 1e-6)
    assert (box.width, box.height) == (23, 23)  # sigma 10: half of the height at 11.8


def test_a_mask_is_black_and_white(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((7, 9)) < 0.5
    save_mask(mask, tmp_path / "deep" / "mask")
    with Image.open(tmp_path / "deep" / "mask") as image:
        assert (image.format, image.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(image), mask * np.uint8(255))


def test_a_boxs_peak_is_its_own_defects() -> None:
    # one defect lies within the box of another
    scores = torch.zeros(9, 9)
    scores[0], scores[:, 0] = 1, 1
    scores[5, 5] = 7
    assert [box.peak for box in find_boxes(scores, 0.5)] == [7, 1]


@pytest.mark.parametrize("form", ["npy", "tiff"])
def test_raw_maps_come_back_bit_for_bit(form: str, tmp_path: Path) -> None:
    scores = torch.randn(6, 4) * 1e3
    path = tmp_path / "a" / "x"
    save_map(scores, path, form)  # type: ignore[arg-type]
    read = np.load(path) if form == "npy" else np.asarray(Image.open(path))
    assert read.dtype == np.float32
    assert np.array_equal(read, scores.numpy())
