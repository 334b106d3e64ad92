"""Lower triangular matrices in half of the memory, without their zeros."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fold(matrix: Tensor) -> Tensor:
    """Store a lower triangular matrix (D, D) in (h, 2 h + 1) numbers, with h = D / 2 rounded up.

    The triangle at the bottom right, transposed, fills the zeros above the one at the top left.

    References: Gustavson et al. 2010, doi:10.1145/1731022.1731028, for the rectangular full packed
    format.

    Example:
        >>> fold(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
        tensor([[1., 3., 2.]])
    """
    half = (len(matrix) + 1) // 2
    even = F.pad(matrix, (0, 2 * half - len(matrix)) * 2)
    first, below, last = even[:half, :half], even[half:, :half], even[half:, half:]
    return torch.cat([F.pad(first.tril(), (0, 1)) + F.pad(last.tril().T, (1, 0)), below], 1)


def unfold(folded: Tensor, size: int) -> Tensor:
    """The lower triangular matrix (D, D) of a size D that `fold` has stored.

    Example:
        >>> unfold(torch.tensor([[1.0, 3.0, 2.0]]), size=2)
        tensor([[1., 0.],
                [2., 3.]])
    """
    half = len(folded)
    matrix = folded.new_zeros(2 * half, 2 * half)
    matrix[:half, :half] = folded[:, :half].tril()
    matrix[half:, half:] = folded[:, 1 : half + 1].triu().T
    matrix[half:, :half] = folded[:, half + 1 :]
    return matrix[:size, :size]
