"""One coupling block of the flow: affine coupling, global affine map, fixed rotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl._internal.libraries import InvertibleModule
from moleflow_pl.flow.autograd import AffineCoupling, ScaledRotation
from moleflow_pl.flow.lora import MoLESubnet
from moleflow_pl.flow.scoring_pass import ScoringBlock, SharedAffine

SUBNET_GAIN = 0.1  # FrEIA scales the output of a subnet down: a coupling starts near identity
SOFTPLUS_BETA = 0.5
SOFTPLUS_GAIN = 0.1
# softplus^-1 of 1 under the two constants above: the global scale starts at one
INITIAL_GLOBAL_SCALE = 2 * torch.log(torch.expm1(torch.tensor(5.0, dtype=torch.float64))).item()


def random_rotation(channels: int) -> Tensor:
    """Draw a rotation from the Haar measure on SO(n), from torch's random state.

    Shape: (channels, channels), in torch's default dtype.

    References: Mezzadri 2007, arXiv:math-ph/0609050.

    Example:
        >>> w = random_rotation(6)
        >>> torch.allclose(w @ w.T, torch.eye(6), atol=1e-6)
        True
    """
    rotation = torch.empty(channels, channels, dtype=torch.float64)
    if not rotation.is_meta:  # a checkpoint brings the values of one on the meta device
        nn.init.orthogonal_(rotation)
        rotation[:, 0] *= torch.linalg.det(rotation).sign()
    return rotation.to(torch.get_default_dtype())


class MoLECoupling(InvertibleModule):
    """FrEIA's `AllInOneBlock` with a subnet that has an expert for each task.

    The first half of the channels sets scale and shift of the second; a global affine map
    (SOFTPLUS scale) and a fixed rotation follow. The same weights give the same numbers as in
    `AllInOneBlock(permute_soft=True, global_affine_type="SOFTPLUS")`. The task is the block's
    FrEIA condition: a plain argument of the call, so that several threads can score different
    products at once.

    Args:
        dims_in: FrEIA's shapes of the input, `[(D,)]`.
        dims_c: FrEIA's shapes of the condition; unused, since the task is not a tensor.
        subnet_constructor: `f(channels_in, channels_out)` that builds the subnet.
        clamp: Largest log-scale of one coupling.

    Shape: `((N, D),)`, `c=(task,)` -> `((N, D),)`, log_det (N,).

    References: Dinh et al. 2017, arXiv:1605.08803, section 3; Kingma & Dhariwal 2018,
    arXiv:1807.03039, section 3; the soft clamp is Ardizzone et al. 2019, arXiv:1907.02392, eq. 5.
    """

    def __init__(
        self,
        dims_in: Sequence[Sequence[int]],
        dims_c: Sequence[Sequence[int]] | None = None,
        *,
        subnet_constructor: Callable[[int, int], MoLESubnet],
        clamp: float,
    ) -> None:
        super().__init__(dims_in, dims_c or [])
        channels = dims_in[0][0]
        self.splits = [channels - channels // 2, channels // 2]
        self.clamp = clamp
        self.global_scale = nn.Parameter(torch.full((1, channels), INITIAL_GLOBAL_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(1, channels))
        # buffers, not frozen parameters as in FrEIA: they cannot be unfrozen by mistake
        rotation = random_rotation(channels)
        self.register_buffer("w_perm", rotation)
        self.register_buffer("w_perm_inv", rotation.T.contiguous())
        self.w_perm: Tensor
        self.w_perm_inv: Tensor
        self.subnet = subnet_constructor(self.splits[0], 2 * self.splits[1])

    def forward(
        self, x: Sequence[Tensor], c: Sequence[int | None] = (None,), rev: bool = False,
        jac: bool = True,
    ) -> tuple[tuple[Tensor], Tensor]:  # fmt: skip
        """Transform (N, D) rows; FrEIA's contract: `rev` gives the inverse and -log_det."""
        scale = SOFTPLUS_GAIN * F.softplus(self.global_scale, beta=SOFTPLUS_BETA)
        rows = x[0]
        if rev:
            rows = (F.linear(rows, self.w_perm_inv) - self.global_offset) / scale
        passive, active = rows.split(self.splits, dim=1)
        coefficients = self.subnet(passive, c[0])
        if not rev:
            rows, log_det = AffineCoupling.apply(rows, coefficients, self.clamp, SUBNET_GAIN)
            rows = ScaledRotation.apply(rows, scale, self.global_offset, self.w_perm)
            return (rows,), log_det + scale.log().sum()
        log_scale, shift = (SUBNET_GAIN * coefficients).split(self.splits[1], dim=1)
        log_scale = self.clamp * torch.tanh(log_scale)
        active = (active - shift) * torch.exp(-log_scale)
        return (torch.cat((passive, active), 1),), -log_scale.sum(1) - scale.log().sum()

    def shared_affine(self) -> SharedAffine:
        """The global affine map and the rotation as one matrix, without gradients."""
        scale = SOFTPLUS_GAIN * F.softplus(self.global_scale.detach(), beta=SOFTPLUS_BETA)
        offset = self.w_perm @ self.global_offset.detach()[0]
        return SharedAffine(self.w_perm * scale, offset, scale.log().sum())

    def merged(self, task: int, shared_affine: SharedAffine) -> ScoringBlock:
        """The block of the expert of `task` in dense matrices, without gradients."""
        hidden, coefficients = self.subnet.layer1.merged(task), self.subnet.layer2.merged(task)
        return ScoringBlock(hidden, coefficients, shared_affine, self.clamp, SUBNET_GAIN)

    def mixed(self, tasks: Sequence[int], shared_affine: SharedAffine) -> ScoringBlock:
        """The block for a batch whose images have the experts of `tasks`, without gradients."""
        hidden, coefficients = self.subnet.layer1.mixed(tasks), self.subnet.layer2.mixed(tasks)
        return ScoringBlock(hidden, coefficients, shared_affine, self.clamp, SUBNET_GAIN)

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """A coupling keeps the shape."""
        return input_dims

    def base_parameters(self) -> list[nn.Parameter]:
        """The shared weights: task 0 trains them, later tasks do not."""
        return [self.global_scale, self.global_offset, *self.subnet.base_parameters()]
