from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.inference.localisation import Box, find_boxes, pixel_map, save_map


def test_pixels_never_exceed_the_patches() -> None:
    patches = torch.randn(5, 7)
    scores = pixel_map(patches, (60, 91))
    assert scores.shape == (60, 91)
    assert patches.min() <= scores.min() < scores.max() <= patches.max()


def test_boxes_surround_exactly_what_exceeds_the_threshold() -> None:
    scores = torch.zeros(20, 30)
    scores[2:5, 3:9] = 1
    scores[4, 5] = 4
    scores[10:12, 20:30] = 2
    assert find_boxes(scores, 0.5) == [Box(3, 2, 6, 3, 4.0), Box(20, 10, 10, 2, 2.0)]
    assert find_boxes(scores, 1.5) == [Box(5, 4, 1, 1, 4.0), Box(20, 10, 10, 2, 2.0)]
    assert find_boxes(scores, 4) == []


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
