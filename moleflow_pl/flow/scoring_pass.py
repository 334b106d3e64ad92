"""The flow without gradients: the same numbers in fewer, larger matrix products.

One expert for many images is merged into dense weights. If most images of a batch have an expert
of their own, and these are too many to stay cached, merging costs more than it saves: all images
share the product with the base's weights, and each adds the product with its low-rank factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

# rows at once on a CPU: fewer make small products, more overflow its caches
CPU_ROWS = 2048
MIXED_CPU_ROWS = 4096  # the products of a mixed batch with low-rank factors are small


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
class MergedLayer:
    """A linear layer of one expert, in dense weights.

    Attributes:
        weight: Weight (D_out, D_in).
        bias: Bias (D_out,), or None.

    Example:
        >>> MergedLayer(torch.eye(2), torch.ones(2))(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, rows: Tensor) -> Tensor:
        """Map rows (N, D_in) to (N, D_out)."""
        return F.linear(rows, self.weight, self.bias)


@dataclass
class MixedLayer:
    """A linear layer for a batch in which each image has an expert.

    Attributes:
        weight: Weight of the base (D_out, D_in).
        bias: Bias of each image, base and shift, (B, 1, D_out).
        factors: Low-rank factors of each image, (B, r, D_in) and (B, D_out, r); None without.
        scaling: Strength of their product.

    Example:
        >>> MixedLayer(torch.eye(2), torch.ones(3, 1, 2), None, 1.0)(torch.zeros(6, 2)).shape
        torch.Size([6, 2])
    """

    weight: Tensor
    bias: Tensor
    factors: tuple[Tensor, Tensor] | None
    scaling: float

    def __call__(self, rows: Tensor) -> Tensor:
        """Map rows (B n, D_in), in the order of the images, to (B n, D_out)."""
        out = F.linear(rows, self.weight)
        by_image = out.unflatten(0, (len(self.bias), -1)).add_(self.bias)
        if self.factors is not None:
            down, up = self.factors
            images = rows.unflatten(0, (len(self.bias), -1))
            narrow = torch.bmm(images, down.transpose(1, 2))
            by_image.baddbmm_(narrow, up.transpose(1, 2), alpha=self.scaling)
        return out


@dataclass
class ScoringBlock:
    """One coupling block, of one expert or of one for each image.

    Attributes:
        hidden: The subnet's first layer.
        coefficients: Its second.
        shared_affine: What follows the coupling.
        clamp: Largest log-scale.
        gain: Factor of the subnet's output.
    """

    hidden: Callable[[Tensor], Tensor]
    coefficients: Callable[[Tensor], Tensor]
    shared_affine: SharedAffine
    clamp: float
    gain: float

    def __call__(self, rows: Tensor, log_det: Tensor) -> Tensor:
        """Transform rows (N, D), which are overwritten; add to log_det (N,) in place."""
        width = rows.shape[1] // 2
        raw = self.coefficients(self.hidden(rows[:, :-width]).relu_())
        # clamp * tanh(a) = 2 clamp * sigmoid(2 a) - clamp, in as few passes as possible
        gate = (raw[:, :width] * (2 * self.gain)).sigmoid_()
        constant = self.shared_affine.log_det - self.clamp * width
        log_det.add_(gate.sum(1), alpha=2 * self.clamp).add_(constant)
        base = gate.new_tensor(-self.clamp / math.log(2))
        factor = torch.add(base, gate, alpha=2 * self.clamp / math.log(2)).exp2_()
        rows[:, -width:].mul_(factor).add_(raw[:, width:], alpha=self.gain)
        return F.linear(rows, self.shared_affine.weight, self.shared_affine.bias)


@dataclass
class ScoringPass:
    """All blocks of one expert, or of one for each image, after the input adapters.

    Attributes:
        blocks: The blocks in order.
        cpu_rows: How many rows pass them at once on a CPU.

    Example:
        >>> latent, log_det = ScoringPass([])(torch.ones(2, 3))
        >>> latent.shape, log_det
        (torch.Size([2, 3]), tensor([0., 0.]))
    """

    blocks: Sequence[ScoringBlock]
    cpu_rows: int = CPU_ROWS

    def part(self, blocks: slice) -> ScoringPass:
        """Some of the blocks."""
        return replace(self, blocks=self.blocks[blocks])

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (N, D) and log_det (N,) of rows (N, D), which are not changed."""
        step = self.cpu_rows if rows.device.type == "cpu" else max(len(rows), 1)
        latent, log_det = torch.empty_like(rows), rows.new_zeros(len(rows))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            x = rows[part].clone()
            for block in self.blocks:
                x = block(x, log_det[part])
            latent[part] = x
        return latent, log_det
