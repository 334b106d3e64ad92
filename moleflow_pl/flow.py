"""The normalizing flow every product shares, and the experts on it.

Sign of the log-determinant, everywhere: that of the forward direction, features to latent, in
nats, one number for each patch: log p(x) = log N(z; 0, I) + log_det.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from FrEIA.framework import SequenceINN
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn

from moleflow_pl.arguments import WIDEST, check_number, check_whole
from moleflow_pl.fused import AffineCoupling, ScaledRotation
from moleflow_pl.input_adapter import TaskInputAdapter
from moleflow_pl.lora import LARGEST_ALPHA, LARGEST_RANK, MoLESubnet
from moleflow_pl.merged import MergedBlock, MergedExpert, Mix, TensorCache
from moleflow_pl.whitening import WhiteningAdapter

AdapterName = Literal["film", "whitening"]

MOST_LAYERS = 256
LARGEST_CLAMP = 80.0  # the exponential of a larger log-scale is no float32
SUBNET_GAIN = 0.1  # FrEIA scales a subnet's output down for a gentle start
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
    rotation = nn.init.orthogonal_(torch.empty(channels, channels, dtype=torch.float64))
    if torch.linalg.det(rotation) < 0:
        rotation[:, 0].neg_()
    return rotation.to(torch.get_default_dtype())


class MoLECoupling(InvertibleModule):
    """FrEIA's `AllInOneBlock` with a subnet that is told which expert answers.

    The first half of the channels sets scale and shift of the second; a global affine map
    (SOFTPLUS scale) and a fixed rotation follow. The same weights give the same numbers as
    `AllInOneBlock(permute_soft=True, global_affine_type="SOFTPLUS")` does. The task is the block's
    FrEIA condition: a plain argument of the call, so that callers in several threads may score
    different products at once.

    Args:
        dims_in: FrEIA's shapes of the input, `[(D,)]`.
        dims_c: FrEIA's shapes of the condition; the task is no tensor, so it is not read.
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
        # buffers, not FrEIA's frozen parameters: nothing can unfreeze them by mistake
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

    def mix(self) -> Mix:
        """What follows the coupling, the same for all experts, without gradients."""
        scale = SOFTPLUS_GAIN * F.softplus(self.global_scale.detach(), beta=SOFTPLUS_BETA)
        offset = self.w_perm @ self.global_offset.detach()[0]
        return Mix(self.w_perm * scale, offset, scale.log().sum())

    def merged(self, task: int, mix: Mix) -> MergedBlock:
        """The block as the expert of `task` has it, in dense matrices and without gradients."""
        hidden, coefficients = self.subnet.layer1.merged(task), self.subnet.layer2.merged(task)
        return MergedBlock(hidden, coefficients, mix, self.clamp, SUBNET_GAIN)

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """A coupling keeps the shape."""
        return input_dims

    def base_parameters(self) -> list[nn.Parameter]:
        """What task 0 trains and every later task finds frozen."""
        return [self.global_scale, self.global_offset, *self.subnet.base_parameters()]


class MoLESpatialAwareNF(nn.Module):
    """One flow for all products, with an expert for each task.

    An expert is a `TaskInputAdapter` before the flow and low-rank factors and bias shifts in every
    subnet. The base trains with task 0 and is frozen from task 1 on. The call names the expert;
    no state says which one is active.

    Args:
        embed_dim: Channels of a patch, D.
        coupling_layers: Number of coupling blocks.
        clamp_alpha: Largest log-scale of one coupling.
        lora_rank: Rank of the experts.
        lora_alpha: Strength of the experts, divided by the rank.
        use_lora: Experts have low-rank factors.
        use_task_adapter: Experts have an input adapter.
        use_task_bias: Experts have bias shifts.
        adapter: Kind of the input adapters: `film`, as the method was published, or `whitening`.

    Shape: features (B, h, w, D), position already added -> latent (B, h, w, D), log_det (B, h, w).

    References: Yu et al. 2021, FastFlow, arXiv:2111.07677, for flows on patch features.

    Example:
        >>> flow = MoLESpatialAwareNF(8, coupling_layers=2, lora_rank=2)
        >>> flow.add_task(0)
        >>> latent, log_det = flow(torch.zeros(1, 3, 2, 8), task=0)
        >>> latent.shape, log_det.shape
        (torch.Size([1, 3, 2, 8]), torch.Size([1, 3, 2]))
    """

    def __init__(
        self,
        embed_dim: int,
        coupling_layers: int = 8,
        clamp_alpha: float = 1.9,
        lora_rank: int = 32,
        lora_alpha: float = 1.0,
        use_lora: bool = True,
        use_task_adapter: bool = True,
        use_task_bias: bool = True,
        adapter: AdapterName = "film",
    ) -> None:
        super().__init__()
        check_whole("embed_dim", embed_dim, 2, WIDEST)
        check_whole("coupling_layers", coupling_layers, 1, MOST_LAYERS)
        check_number("clamp_alpha", clamp_alpha, 0, LARGEST_CLAMP, above=True)
        check_whole("lora_rank", lora_rank, 1, LARGEST_RANK)
        check_number("lora_alpha", lora_alpha, 0, LARGEST_ALPHA, above=True)
        self.embed_dim = embed_dim
        self.use_task_adapter = use_task_adapter
        self.adapter: AdapterName = adapter
        self.tasks: list[int] = []

        def subnet(width_in: int, width_out: int) -> MoLESubnet:
            return MoLESubnet(width_in, width_out, lora_rank, lora_alpha, use_lora, use_task_bias)

        self.flow = SequenceINN(embed_dim)
        for _ in range(coupling_layers):
            self.flow.append(
                MoLECoupling, cond=0, cond_shape=(1,), subnet_constructor=subnet, clamp=clamp_alpha
            )
        self.input_adapters = nn.ModuleDict()
        self.register_buffer("reference_mean", torch.zeros(embed_dim))
        self.register_buffer("reference_std", torch.ones(embed_dim))
        self.reference_mean: Tensor
        self.reference_std: Tensor
        self._mixes = TensorCache(self._mix, size=1)
        self._merged = TensorCache(self._merge)

    def add_task(self, task: int) -> None:
        """Create the expert of `task`; from then on only what `task` may train asks for gradients.

        Raises:
            ValueError: the task has an expert already.
        """
        if task in self.tasks:
            raise ValueError(f"task {task} has an expert already: the flow knows {self.tasks}")
        for block in self.flow:
            block.subnet.add_task(task)
        if self.use_task_adapter:
            self.input_adapters[str(task)] = self._new_adapter(task).to(self.reference_mean)
        self.tasks.append(task)
        self.requires_grad_(False)
        for parameter in self.parameters_for(task):
            parameter.requires_grad_(True)

    def _new_adapter(self, task: int) -> nn.Module:
        if self.adapter == "whitening":
            return WhiteningAdapter(self.embed_dim)
        # task 0 has nothing to refer to, and keeps most of its input, also after a reload
        reference = (None, None) if task == 0 else (self.reference_mean, self.reference_std)
        return TaskInputAdapter(self.embed_dim, *reference)

    def set_reference(self, mean: Tensor, std: Tensor) -> None:
        """Keep the first task's mean and standard deviation (D,) for the adapters to come."""
        self.reference_mean.copy_(mean)
        self.reference_std.copy_(std)

    def base_parameters(self) -> list[nn.Parameter]:
        """The shared weights, in a fixed order."""
        return [parameter for block in self.flow for parameter in block.base_parameters()]

    def expert_parameters(self, task: int) -> list[nn.Parameter]:
        """What belongs to `task` alone, in a fixed order.

        Raises:
            KeyError: the task was never added.
        """
        self._check(task)
        adapter = list(self.adapter_of(task).parameters()) if self.use_task_adapter else []
        return adapter + [p for block in self.flow for p in block.subnet.expert_parameters(task)]

    def parameters_for(self, task: int) -> list[nn.Parameter]:
        """What training `task` may change: its expert, and with task 0 the base too."""
        expert = self.expert_parameters(task)
        return self.base_parameters() + expert if task == 0 else expert

    def forward(self, features: Tensor, task: int | Tensor) -> tuple[Tensor, Tensor]:
        """Map features to latent and log-determinant, by one expert or by one for each image.

        Args:
            features: (B, h, w, D).
            task: One task, or a LongTensor (B,).

        Raises:
            KeyError: a task was never added.
        """
        return self._by_expert(self._forward, features, task)

    @torch.no_grad()
    def halfway(self, features: Tensor, task: int | Tensor) -> Tensor:
        """Latents behind the first half of the blocks (B, h, w, D), without gradients.

        Args:
            features: (B, h, w, D).
            task: One task, or a LongTensor (B,).

        Raises:
            KeyError: a task was never added.
        """
        return self._by_expert(self._halfway, features, task)[0]

    @torch.no_grad()
    def onward(self, halfway: Tensor, task: int | Tensor) -> Tensor:
        """The latents (B, h, w, D) that such ones become behind the other half of the blocks."""
        return self._by_expert(self._onward, halfway, task)[0]

    def inverse(self, latent: Tensor, task: int | Tensor) -> Tensor:
        """Map a latent (B, h, w, D) back to features.

        To those that went in, or, where the adapter has no inverse, to those behind it.
        """

        def inverse(latent: Tensor, task: int) -> tuple[Tensor, Tensor]:
            adapted, log_det = self._run(latent, task, rev=True)
            adapter = self.adapter_of(task)
            return adapted if adapter is None else adapter.inverse(adapted), log_det

        return self._by_expert(inverse, latent, task)[0]

    def _forward(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        latent, log_det = self._through(self._adapted(features, task), task)
        adapter = self.adapter_of(task)
        return latent, log_det if adapter is None else log_det + adapter.log_det()

    def _halfway(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return self._merged_run(self._expert(task).halves[0], self._adapted(features, task))

    def _onward(self, halfway: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return self._merged_run(self._expert(task).halves[1], halfway)

    def _adapted(self, features: Tensor, task: int) -> Tensor:
        adapter = self.adapter_of(task)
        return features if adapter is None else adapter(features)

    def _through(self, adapted: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """The blocks; where no one asks for gradients, with merged weights."""
        if torch.is_grad_enabled():
            return self._run(adapted, task)
        return self._merged_run(self._expert(task), adapted)

    def _merged_run(self, expert: MergedExpert, x: Tensor) -> tuple[Tensor, Tensor]:
        latent, log_det = expert(x.reshape(-1, self.embed_dim))
        return latent.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def _expert(self, task: int) -> MergedExpert:
        return self._merged.get(task, self.base_parameters() + self.expert_parameters(task))

    def _mix(self, _: int) -> list[Mix]:
        return [block.mix() for block in self.flow]

    def _merge(self, task: int) -> MergedExpert:
        mixes = self._mixes.get(0, self.base_parameters())
        pairs = zip(self.flow, mixes, strict=True)
        return MergedExpert([block.merged(task, mix) for block, mix in pairs])

    def _run(self, x: Tensor, task: int, rev: bool = False) -> tuple[Tensor, Tensor]:
        rows, log_det = self.flow(x.reshape(-1, self.embed_dim), c=[task], rev=rev)
        return rows.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def _by_expert(
        self,
        run: Callable[[Tensor, int], tuple[Tensor, Tensor]],
        x: Tensor,
        task: int | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Call `run` once for each expert a batch needs, and keep the batch's order.

        A density in half precision is off by more than its spread over patches, so autocast ends
        here.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.reference_mean.dtype)
            if not isinstance(task, Tensor):
                self._check(task)
                return run(x, task)
            first, log_det = torch.empty_like(x), x.new_empty(x.shape[:-1])
            for one in task.unique().tolist():
                self._check(one)
                rows = (task == one).to(x.device)
                first[rows], log_det[rows] = run(x[rows], one)
            return first, log_det

    def adapter_of(self, task: int) -> Any:
        """The input adapter of a task; None where adapters are switched off."""
        return self.input_adapters[str(task)] if self.use_task_adapter else None

    def _check(self, task: int) -> None:
        if task not in self.tasks:
            raise KeyError(f"no expert for task {task}: the flow knows tasks {self.tasks}")
