"""Stacked tensors of several tasks, from which an exported graph selects those of each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Stack(nn.Module):
    """Tensors of several tasks as buffers, from which each image gets those of its task.

    Args:
        tensors: Values of each task, by the name of the buffer.

    Example:
        >>> stack = Stack(shift=[torch.tensor([1.0]), torch.tensor([2.0])])
        >>> stack.select("shift", torch.tensor([1, 0, 1])).tolist()
        [[2.0], [1.0], [2.0]]
    """

    def __init__(self, **tensors: Sequence[Tensor]) -> None:
        super().__init__()
        for name, values in tensors.items():
            self.register_buffer(name, torch.stack([value.detach() for value in values]))

    def select(self, name: str, index: Tensor) -> Tensor:
        """The tensors (B, ...) of the images' tasks, by their index (B,) in the stack."""
        return self.get_buffer(name)[index]
