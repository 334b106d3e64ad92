import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from moleflow_pl.flow.autograd import AffineCoupling, MergedLinear, ScaledRotation, log_scale

CLAMP, GAIN = 1.9, 0.1


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def compare(fast: list[Tensor], plain: list[Tensor], inputs: list[Tensor]) -> None:
    """Values, and gradients of a random function of them, are those of autograd."""
    weights = [torch.randn_like(value) for value in plain]
    found = []
    for values in (fast, plain):
        total = sum((w * v).sum() for w, v in zip(weights, values, strict=True))
        found.append(torch.autograd.grad(total, inputs))
    for one, other in zip(fast, plain, strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-12)
    for one, other in zip(*found, strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_merged_linear_has_the_gradients_of_the_plain_expression() -> None:
    x, weight, down, up, bias = draw(7, 5), draw(6, 5), draw(2, 5), draw(6, 2), draw(6)
    for trained in ([x, weight, down, up, bias], [x, down, up, bias], [down, up]):
        for tensor in (x, weight, down, up, bias):
            tensor.requires_grad_(any(tensor is t for t in trained))
        fast = MergedLinear.apply(x, weight, down, up, bias, 0.3)
        compare([fast], [F.linear(x, weight + 0.3 * up @ down, bias)], trained)


def test_merged_linear_makes_no_gradient_of_a_frozen_weights_size() -> None:
    weight = torch.randn(6, 5)
    x, down, up = torch.randn(7, 5), torch.randn(2, 5), torch.randn(6, 2)
    needed = [t.requires_grad_() for t in (down, up)]
    MergedLinear.apply(x, weight, down, up, None, 0.3).sum().backward()
    assert weight.grad is None
    assert x.grad is None
    assert all(t.grad is not None for t in needed)


def test_affine_coupling_has_the_gradients_of_the_plain_expression() -> None:
    for channels in (6, 7):  # an odd one is passive
        rows, coefficients = draw(5, channels), draw(5, 2 * (channels // 2))
        passive, active = rows.split([channels - channels // 2, channels // 2], 1)
        raw, shift = (GAIN * coefficients).chunk(2, 1)
        scale = CLAMP * torch.tanh(raw)
        plain = [torch.cat((passive, active * scale.exp() + shift), 1), scale.sum(1)]
        fast = list(AffineCoupling.apply(rows, coefficients, CLAMP, GAIN))
        compare(fast, plain, [rows, coefficients])


def test_scaled_rotation_has_the_gradients_of_the_plain_expression() -> None:
    rows, scale, offset = draw(5, 4), draw(1, 4), draw(1, 4)
    rotation = torch.randn(4, 4, dtype=torch.float64)
    for trained in ([rows, scale, offset], [rows]):
        for tensor in (rows, scale, offset):
            tensor.requires_grad_(any(tensor is t for t in trained))
        fast = ScaledRotation.apply(rows, scale, offset, rotation)
        compare([fast], [F.linear(rows * scale + offset, rotation)], trained)


def test_log_scale_in_single_precision_is_tanh_and_exp() -> None:
    raw = torch.linspace(-300, 300, 2001)
    tanh, factor = log_scale(raw, CLAMP, GAIN)
    exact = torch.tanh(GAIN * raw.double())
    assert_close(tanh.double(), exact, rtol=0, atol=4e-7)
    assert_close(factor.double(), (CLAMP * exact).exp(), rtol=2e-6, atol=0)
