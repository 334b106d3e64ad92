import numpy as np
import pytest
import torch

from moleflow_pl.inference.localisation import defect_mask
from moleflow_pl.scoring.guided_map import (
    GuidedFilter,
    follow,
    guides_of,
    patch_means,
    pixel_map,
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


def noise(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random patch scores, zero before the last four columns, and a random guide."""
    torch.manual_seed(0)
    scores = torch.rand(height, width)
    scores[:, :-4] = 0
    return scores, torch.randint(0, 256, (3, 8 * height, 8 * width), dtype=torch.uint8)


def test_nothing_of_a_map_reaches_the_outer_half_of_the_next_patch() -> None:
    scores, guide = noise(10, 13)
    for side in (8, 13):  # pixels of a patch
        found = pixel_map(scores, (10 * side, 13 * side), guide)
        assert found[:, 9 * side :].any()
        assert not found[:, : 17 * side // 2].any()


def test_no_pixel_is_below_the_lowest_patch() -> None:
    scores, guide = noise(10, 13)
    assert pixel_map(scores, (80, 104), guide).min() == 0


def test_back_projection_keeps_the_peaks_that_the_filter_flattens() -> None:
    torch.manual_seed(0)
    guide, scores = torch.randint(0, 256, (3, 72, 72), dtype=torch.uint8), torch.zeros(9, 9)
    scores[4, 4] = 1.0
    flat = patch_means(GuidedFilter(guide, 8)(scores.double().numpy()), 8)[4, 4]
    kept = patch_means(follow(scores, guide).double().numpy(), 8)[4, 4]
    assert 1.4 * flat < kept < 1


def test_equal_scores_stay_equal() -> None:
    _, guide = noise(6, 6)
    found = pixel_map(torch.full((6, 6), 3.25), (96, 96), guide)
    torch.testing.assert_close(found, torch.full((96, 96), 3.25))


def test_an_even_image_leaves_a_smooth_map() -> None:
    even = guides_of(torch.full((1, 3, 32, 32), 9, dtype=torch.uint8), (4, 4))[0]
    scores = torch.arange(4.0).expand(4, 4)
    plain, followed = (pixel_map(scores, (32, 32), one) for one in (None, even))
    torch.testing.assert_close(followed[16, 12:20], plain[16, 12:20], atol=0.2, rtol=0)


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
    assert found.shape == (70, 30)
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
    found = GuidedFilter(guide, 8)(scores.double().numpy())[20, 20]
    assert found == pytest.approx(expected, abs=1e-9)
