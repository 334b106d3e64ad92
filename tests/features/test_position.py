import pytest
import torch

from benchmarks import literal
from moleflow_pl.features.position import PositionalGrid, sincos_grid


def test_grid_equals_the_definition() -> None:
    expected = literal.position_code(16, 3, 5)
    torch.testing.assert_close(sincos_grid(3, 5, 16), expected)


def test_features_move_by_the_grid_whatever_their_size() -> None:
    grid = PositionalGrid()
    for shape in ((2, 3, 5, 8), (1, 4, 2, 12)):
        features = torch.randn(shape)
        expected = features + sincos_grid(*shape[1:]).float()
        torch.testing.assert_close(grid(features), expected)


def test_grid_is_not_part_of_a_checkpoint() -> None:
    grid = PositionalGrid()
    grid(torch.zeros(1, 2, 2, 4))
    assert not grid.state_dict()


def test_channels_that_four_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4 channels, got 6"):
        sincos_grid(2, 2, 6)
