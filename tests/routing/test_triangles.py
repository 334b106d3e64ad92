"""Triangular matrices in half of their memory."""

import pytest
import torch

from moleflow_pl.routing.triangles import fold, unfold


@pytest.mark.parametrize("size", [1, 2, 5, 8, 31])
def test_a_folded_triangle_is_the_same_to_the_bit_in_half_of_the_memory(size: int) -> None:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(size)).tril()
    folded = fold(matrix)
    assert torch.equal(unfold(folded, size), matrix)
    assert folded.numel() <= (size + 1) * (size + 2) // 2
