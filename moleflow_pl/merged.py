"""Experts folded into dense weights, for scoring: the same numbers in fewer and larger products."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT = 16  # 7 MB each at 384 channels, 28 at 768
CPU_ROWS = 2048  # rows at once on a CPU: fewer make small products, more leave its caches

T = TypeVar("T")
Made = tuple[Tensor, int, int]  # a tensor, where it lay and how often it had been written to


@dataclass
class Mix:
    """What of a block all experts share.

    Attributes:
        weight: Global scale and rotation as one matrix (D, D).
        bias: The rotated global offset (D,).
        log_det: Log-determinant of the global scale, ().
    """

    weight: Tensor
    bias: Tensor
    log_det: Tensor


@dataclass
class MergedBlock:
    """One coupling block of one expert.

    Attributes:
        hidden: Weight and bias of the subnet's first layer.
        coefficients: Weight and bias of its second.
        mix: What follows the coupling.
        clamp: Largest log-scale.
        gain: Factor of the subnet's output.
    """

    hidden: tuple[Tensor, Tensor | None]
    coefficients: tuple[Tensor, Tensor | None]
    mix: Mix
    clamp: float
    gain: float

    def __call__(self, rows: Tensor, log_det: Tensor) -> Tensor:
        """Transform rows (N, D), which are overwritten; add to log_det (N,) in place."""
        width = self.coefficients[0].shape[0] // 2
        hidden = F.linear(rows[:, :-width], *self.hidden).relu_()
        raw = F.linear(hidden, *self.coefficients)
        # clamp * tanh(a) = 2 clamp * sigmoid(2 a) - clamp, in as few passes as there can be
        gate = (raw[:, :width] * (2 * self.gain)).sigmoid_()
        log_det.add_(gate.sum(1), alpha=2 * self.clamp).add_(self.mix.log_det - self.clamp * width)
        base = gate.new_tensor(-self.clamp / math.log(2))
        factor = torch.add(base, gate, alpha=2 * self.clamp / math.log(2)).exp2_()
        rows[:, -width:].mul_(factor).add_(raw[:, width:], alpha=self.gain)
        return F.linear(rows, self.mix.weight, self.mix.bias)


@dataclass
class MergedExpert:
    """All blocks of one expert, behind its input adapter.

    Attributes:
        blocks: The blocks in their order.

    Example:
        >>> latent, log_det = MergedExpert([])(torch.ones(2, 3))
        >>> latent.shape, log_det
        (torch.Size([2, 3]), tensor([0., 0.]))
    """

    blocks: Sequence[MergedBlock]

    @property
    def halves(self) -> tuple[MergedExpert, MergedExpert]:
        """The first half of the blocks and the others."""
        middle = len(self.blocks) // 2
        return MergedExpert(self.blocks[:middle]), MergedExpert(self.blocks[middle:])

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, D) and log_det (N,) of rows (N, D), which stay as they are."""
        step = CPU_ROWS if rows.device.type == "cpu" else max(len(rows), 1)
        latent, log_det = torch.empty_like(rows), rows.new_zeros(len(rows))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            x = rows[part].clone()
            for block in self.blocks:
                x = block(x, log_det[part])
            latent[part] = x
        return latent, log_det


class TensorCache(Generic[T]):
    """What is made from tensors, the ones asked for last; made anew when a tensor has changed.

    Args:
        build: Makes the thing of a key.
        size: Things to keep.

    Example:
        >>> cache = TensorCache(lambda key: [key], size=1)
        >>> cache.get(0, ()) is cache.get(0, ())
        True
    """

    def __init__(self, build: Callable[[int], T], size: int = KEPT) -> None:
        self.build = build
        self.size = size
        self._kept: OrderedDict[int, tuple[list[Made], T]] = OrderedDict()

    def get(self, key: int, tensors: Sequence[Tensor]) -> T:
        """The thing of `key`, which is made from `tensors`."""
        kept = self._kept.pop(key, None)
        if kept is None or not same_state(kept[0], tensors):
            # the tensors themselves are kept: another one could come to lie where one was
            kept = ([(t, t.data_ptr(), t._version) for t in tensors], self.build(key))
        self._kept[key] = kept
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return kept[1]


def same_state(made: Sequence[Made], tensors: Sequence[Tensor]) -> bool:
    """Whether these are the tensors that something was made from, none changed since."""
    return len(made) == len(tensors) and all(
        one is tensor and place == tensor.data_ptr() and version == tensor._version
        for (one, place, version), tensor in zip(made, tensors, strict=True)
    )
