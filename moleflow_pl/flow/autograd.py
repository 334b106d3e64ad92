"""Autograd functions of a coupling block, with fewer passes over memory and fewer products.

Each has the values and gradients of the plain expression in its docstring.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class MergedLinear(torch.autograd.Function):
    """`F.linear(x, weight + scaling * up @ down, bias)`.

    The merged weight costs one product forward and one backward for the input. Where the shared
    weight is frozen, its gradient is not computed: those of the factors are low-rank products.

    Shape: x (N, D_in), weight (D_out, D_in), down (r, D_in), up (D_out, r), bias (D_out,).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, down: Tensor, up: Tensor, bias: Tensor | None,
        scaling: float,
    ) -> Tensor:  # fmt: skip
        merged = torch.addmm(weight, up, down, alpha=scaling)
        ctx.scaling = scaling
        ctx.save_for_backward(x, merged, down, up)
        return F.linear(x, merged, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, down, up = ctx.saved_tensors
        needs_x, needs_weight, needs_down, needs_up, needs_bias, _ = ctx.needs_input_grad
        grad_weight = grad_down = grad_up = None
        if needs_weight:
            grad_weight = grad.T @ x
            grad_down = ctx.scaling * (up.T @ grad_weight) if needs_down else None
            grad_up = ctx.scaling * (grad_weight @ down.T) if needs_up else None
        else:
            grad_down = ctx.scaling * ((grad @ up).T @ x) if needs_down else None
            grad_up = ctx.scaling * (grad.T @ (x @ down.T)) if needs_up else None
        return (
            grad @ merged if needs_x else None,
            grad_weight,
            grad_down,
            grad_up,
            grad.sum(0) if needs_bias else None,
            None,
        )


def log_scale(raw: Tensor, clamp: float, gain: float) -> tuple[Tensor, Tensor]:
    """The tanh in `clamp * tanh(gain * raw)`, and exp of the whole.

    Computed by sigmoid and exp2: torch's vectorised tanh and exp are several times slower on CPUs.

    Shape: raw (N, K) -> tanh (N, K), factor (N, K).

    Example:
        >>> tanh, factor = log_scale(torch.tensor([[0.0]]), clamp=1.9, gain=0.1)
        >>> tanh.item(), factor.item()
        (0.0, 1.0)
    """
    tanh = (raw * (2 * gain)).sigmoid_().mul_(2).sub_(1)
    return tanh, (tanh * (clamp / math.log(2))).exp2_()


class AffineCoupling(torch.autograd.Function):
    """Scale and shift the active half of a row by coefficients from the passive half.

    With a, b the halves of gain * coefficients and s = clamp * tanh(a), the active half becomes
    active * exp(s) + b; the passive half is unchanged; log_det is the sum of s.

    Shape: rows (N, D), coefficients (N, 2 K), K active channels -> rows (N, D), log_det (N,).
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, coefficients: Tensor, clamp: float, gain: float
    ) -> tuple[Tensor, Tensor]:
        width = coefficients.shape[1] // 2
        tanh, factor = log_scale(coefficients[:, :width], clamp, gain)
        out = rows.clone()
        out[:, -width:].mul_(factor).add_(coefficients[:, width:], alpha=gain)
        ctx.clamp, ctx.gain = clamp, gain
        ctx.save_for_backward(rows, tanh, factor)
        return out, tanh.sum(1).mul_(clamp)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        rows, tanh, factor = ctx.saved_tensors
        width = tanh.shape[1]
        grad_rows = grad.clone()
        scaled = grad_rows[:, -width:].mul_(factor)
        coefficients = grad.new_empty(len(tanh), 2 * width)
        # d s / d a = clamp (1 - tanh^2)
        slope = torch.addcmul(grad_log_det[:, None], scaled, rows[:, -width:])
        slope.mul_(tanh.square().neg_().add_(1))
        torch.mul(slope, ctx.clamp * ctx.gain, out=coefficients[:, :width])
        torch.mul(grad[:, -width:], ctx.gain, out=coefficients[:, width:])
        return grad_rows, coefficients, None, None


class ScaledRotation(torch.autograd.Function):
    """`F.linear(rows * scale + offset, rotation)`, as one product.

    Shape: rows (N, D), scale (1, D), offset (1, D), rotation (D, D) -> (N, D).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, offset: Tensor, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(rows, scale, rotation)
        return F.linear(rows, rotation * scale, (rotation @ offset[0]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, rotation = ctx.saved_tensors
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return grad @ (rotation * scale), None, None, None
        rotated = grad @ rotation
        grad_scale = torch.einsum("nd,nd->d", rotated, rows)[None]
        return rotated * scale, grad_scale, rotated.sum(0, keepdim=True), None
