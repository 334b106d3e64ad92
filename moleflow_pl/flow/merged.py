"""Experts merged into dense weights for scoring: the same numbers in fewer, larger products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CPU_ROWS = 2048  # rows at once on a CPU: fewer make small products, more overflow its caches


@dataclass
class SharedAffine:
    """The part of a block after the coupling, which all experts share.

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
        shared_affine: What follows the coupling.
        clamp: Largest log-scale.
        gain: Factor of the subnet's output.
    """

    hidden: tuple[Tensor, Tensor | None]
    coefficients: tuple[Tensor, Tensor | None]
    shared_affine: SharedAffine
    clamp: float
    gain: float

    def __call__(self, rows: Tensor, log_det: Tensor) -> Tensor:
        """Transform rows (N, D), which are overwritten; add to log_det (N,) in place."""
        width = self.coefficients[0].shape[0] // 2
        hidden = F.linear(rows[:, :-width], *self.hidden).relu_()
        raw = F.linear(hidden, *self.coefficients)
        # clamp * tanh(a) = 2 clamp * sigmoid(2 a) - clamp, in as few passes as possible
        gate = (raw[:, :width] * (2 * self.gain)).sigmoid_()
        constant = self.shared_affine.log_det - self.clamp * width
        log_det.add_(gate.sum(1), alpha=2 * self.clamp).add_(constant)
        base = gate.new_tensor(-self.clamp / math.log(2))
        factor = torch.add(base, gate, alpha=2 * self.clamp / math.log(2)).exp2_()
        rows[:, -width:].mul_(factor).add_(raw[:, width:], alpha=self.gain)
        return F.linear(rows, self.shared_affine.weight, self.shared_affine.bias)


@dataclass
class MergedExpert:
    """All blocks of one expert, after its input adapter.

    Attributes:
        blocks: The blocks in order.

    Example:
        >>> latent, log_det = MergedExpert([])(torch.ones(2, 3))
        >>> latent.shape, log_det
        (torch.Size([2, 3]), tensor([0., 0.]))
    """

    blocks: Sequence[MergedBlock]

    @property
    def halves(self) -> tuple[MergedExpert, MergedExpert]:
        """The first and the second half of the blocks."""
        middle = len(self.blocks) // 2
        return MergedExpert(self.blocks[:middle]), MergedExpert(self.blocks[middle:])

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, D) and log_det (N,) of rows (N, D), which are not changed."""
        step = CPU_ROWS if rows.device.type == "cpu" else max(len(rows), 1)
        latent, log_det = torch.empty_like(rows), rows.new_zeros(len(rows))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            x = rows[part].clone()
            for block in self.blocks:
                x = block(x, log_det[part])
            latent[part] = x
        return latent, log_det
