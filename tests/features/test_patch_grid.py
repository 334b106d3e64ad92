import math

import pytest
import torch

from moleflow_pl.features.patch_grid import z_curve


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (16, 16), (37, 37), (3, 20)])
def test_curve_goes_through_every_place_once(grid: tuple[int, int]) -> None:
    assert torch.equal(z_curve(grid).sort().values, torch.arange(math.prod(grid)))
