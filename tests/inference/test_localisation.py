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
    follow,
    guides_of,
    pixel_map,
    save_map,
    save_mask,
)


def test_pixels_never_exceed_the_patches() -> None:
    patches = torch.randn(5, 7)
    scores = pixel_map(patches, (60, 91))
    assert scores.shape == (60, 91)
    assert patches.min() <= scores.min() < scores.max() <= patches.max()


def a_square(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of 4 x 4 patches, of which four see a square of 12 pixels, and the image's guide."""
    scores = torch.zeros(4, 4)
    scores[1:3, 1:3] = 1
    image = torch.full((1, 3, side, side), 90, dtype=torch.uint8)
    image[..., 26:38, 26:38] = 200
    return scores, guides_of(image, (4, 4))[0]


def test_a_map_follows_the_edges_of_the_image() -> None:
    scores, guide = a_square()
    truth = np.zeros((64, 64), dtype=bool)
    truth[26:38, 26:38] = True
    masks = [defect_mask(pixel_map(scores, (64, 64), one), 0.2) for one in (None, guide)]
    plain, followed = ((mask & truth).sum() / (mask | truth).sum() for mask in masks)
    assert followed > 0.5 > 0.25 > plain


def test_no_pixel_of_a_guided_map_exceeds_the_patches_around_it() -> None:
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, 80, 56), dtype=torch.uint8)
    patches = torch.rand(10, 7)
    guide = guides_of(noise, (10, 7))[0]
    scores = pixel_map(patches, (80, 56), guide)
    assert patches.min() <= scores.min() < scores.max() <= patches.max()
    patches[:, :3] = 0
    for side in (8, 13):  # pixels of a patch; nothing reaches the outer half of the next
        assert not pixel_map(patches, (10 * side, 7 * side), guide)[:, : 5 * side // 2].any()


def test_an_even_image_leaves_a_smooth_map() -> None:
    even = guides_of(torch.full((1, 3, 32, 32), 9, dtype=torch.uint8), (4, 4))[0]
    scores = torch.arange(4.0).expand(4, 4)
    plain, followed = (pixel_map(scores, (32, 32), one) for one in (None, even))
    torch.testing.assert_close(followed[16, 12:20], plain[16, 12:20], atol=0.1, rtol=0)


def test_scores_that_are_no_numbers_stay_where_they_are() -> None:
    scores, guide = a_square()
    scores[3, 3] = torch.nan
    followed = pixel_map(scores, (64, 64), guide)
    assert torch.equal(followed.isnan(), pixel_map(scores, (64, 64)).isnan())


def test_a_guide_is_the_image_at_eight_pixels_a_patch() -> None:
    images = torch.randint(0, 256, (2, 3, 24, 40), dtype=torch.uint8)
    guides = guides_of(images, (3, 5))
    assert torch.equal(guides, images)
    assert torch.equal(guides_of(images / 255, (3, 5)), guides)
    assert guides_of(images, (2, 2)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(("patches", "side"), [(64, 512), (100, 400), (300, 300), (600, 600)])
def test_a_guide_of_many_patches_stays_small(patches: int, side: int) -> None:
    guide = guides_of(torch.zeros(1, 3, 60, 60, dtype=torch.uint8), (patches, 2))[0]
    assert guide.shape == (3, side, 2 * side // patches)
    scores = torch.rand(patches, 2)
    found = pixel_map(scores, (70, 30), guide)
    assert scores.min() <= found.min() < found.max() <= scores.max()
    assert torch.equal(found, pixel_map(scores, (70, 30))) == (side == patches)


def test_a_colour_separates_where_grey_does_not() -> None:
    scores, _ = a_square()
    image = torch.full((1, 3, 64, 64), 120, dtype=torch.uint8)
    image[:, 0, 26:38, 26:38], image[:, 1, 26:38, 26:38] = 200, 40
    truth = np.zeros((64, 64), dtype=bool)
    truth[26:38, 26:38] = True
    mask = defect_mask(pixel_map(scores, (64, 64), guides_of(image, (4, 4))[0]), 0.2)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.5


def test_a_guided_map_is_that_of_a_literal_guided_filter() -> None:
    torch.manual_seed(0)
    guide, scores = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8), torch.rand(5, 5)
    plain = pixel_map(scores.double(), (40, 40)).numpy()
    fits = []
    for row in range(12, 29):  # all windows that hold the pixel (20, 20)
        for column in range(12, 29):
            rows, columns = slice(row - 8, row + 9), slice(column - 8, column + 9)
            x = guide[:, rows, columns].numpy().reshape(3, -1) / 255
            y, middle = plain[rows, columns].ravel(), x.mean(1)
            with_y = ((x - middle[:, None]) * (y - y.mean())).mean(1)
            slope = np.linalg.solve(np.cov(x, bias=True) + 1e-3 * np.eye(3), with_y)
            fits.append([*slope, y.mean() - slope @ middle])
    *slope, offset = np.mean(fits, axis=0)
    expected = slope @ guide[:, 20, 20].numpy() / 255 + offset
    highest = scores[2, 2].item()  # of the only patch that a bilinear map has so near its middle
    found = follow(scores, guide)[20, 20].item()
    assert found == pytest.approx(min(expected, highest), abs=1e-6)


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
