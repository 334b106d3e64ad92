from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from moleflow_pl.inference.localisation import (
    Box,
    defect_mask,
    find_boxes,
    save_map,
    save_mask,
)


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


@pytest.mark.parametrize("seed", range(4))
def test_defects_are_those_of_the_definition_on_whole_maps(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(60, 90))
    values = ndimage.gaussian_filter(noise, 2 + seed).astype(np.float32)
    threshold = float(np.quantile(values, 0.8))
    regions, count = ndimage.label(values > threshold, np.ones((3, 3)))
    mask = np.zeros(values.shape, dtype=bool)
    for number in range(1, count + 1):
        level = (threshold + values[regions == number].max(keepdims=True)) / 2
        mask |= (regions == number) & (values >= level)
    assert np.array_equal(defect_mask(torch.from_numpy(values), threshold), mask)
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    expected = set()
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        size = (columns.stop - columns.start, rows.stop - rows.start)
        peak = float(values[parts == number].max())
        expected.add(Box(columns.start, rows.start, *size, peak))
    found = find_boxes(torch.from_numpy(values), threshold)
    assert set(found) == expected
    assert [box.peak for box in found] == sorted((box.peak for box in found), reverse=True)


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
