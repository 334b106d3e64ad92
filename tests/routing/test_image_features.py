import pytest
import torch

from moleflow_pl.routing.image_features import IMAGE_FEATURES, region_means

DIM = 3


@pytest.mark.parametrize("side", [2, 4, 7, 16])
def test_regions_are_the_means_of_their_patches_directions(side: int) -> None:
    features = torch.randn(2, side, side, DIM)
    unit = features / features.square().sum(-1, keepdim=True).sqrt()
    found = region_means(features).reshape(2, 4, 4, DIM)
    for row in range(4):
        for column in range(4):
            edges = [(side * i // 4, -(-side * (i + 1) // 4)) for i in (row, column)]
            (top, bottom), (left, right) = edges
            expected = unit[:, top:bottom, left:right].mean((1, 2))
            torch.testing.assert_close(found[:, row, column], expected)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 4), (5, 3)])
def test_median_is_the_lower_one_of_torch(grid: tuple[int, int]) -> None:
    features = torch.randn(3, *grid, DIM)
    expected = features.flatten(1, 2).quantile(0.5, 1, interpolation="lower")
    assert torch.equal(IMAGE_FEATURES["median"]()(features), expected)


@pytest.mark.parametrize("name", list(IMAGE_FEATURES))
def test_image_features_have_the_regions_they_declare(name: str) -> None:
    found = IMAGE_FEATURES[name]()
    shape = (2, DIM) if found.regions is None else (2, found.regions, DIM)
    assert found(torch.randn(2, 6, 5, DIM)).shape == shape
