"""The normalizing flow every product shares, and the experts on it.

Sign of the log-determinant, everywhere: that of the forward direction, features to latent, in
nats, one number for each patch: log p(x) = log N(z; 0, I) + log_det.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from FrEIA.framework import SequenceINN
from torch import Tensor, nn

from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl._internal.validation import WIDEST, require_int, require_number
from moleflow_pl.flow.coupling import MoLECoupling
from moleflow_pl.flow.film import TaskInputAdapter
from moleflow_pl.flow.lora import LARGEST_ALPHA, LARGEST_RANK, MoLESubnet
from moleflow_pl.flow.merged import MergedExpert, SharedAffine
from moleflow_pl.flow.whitening import WhiteningAdapter

AdapterName = Literal["film", "whitening"]

MOST_LAYERS = 256
LARGEST_CLAMP = 80.0  # the exponential of a larger log-scale is no float32


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
        require_int("embed_dim", embed_dim, 2, WIDEST)
        require_int("coupling_layers", coupling_layers, 1, MOST_LAYERS)
        require_number("clamp_alpha", clamp_alpha, 0, LARGEST_CLAMP, above=True)
        require_int("lora_rank", lora_rank, 1, LARGEST_RANK)
        require_number("lora_alpha", lora_alpha, 0, LARGEST_ALPHA, above=True)
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
        self._require_task(task)
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
    def encode_half(self, features: Tensor, task: int | Tensor) -> Tensor:
        """Latents behind the first half of the blocks (B, h, w, D), without gradients.

        Args:
            features: (B, h, w, D).
            task: One task, or a LongTensor (B,).

        Raises:
            KeyError: a task was never added.
        """
        return self._by_expert(self._encode_half, features, task)[0]

    @torch.no_grad()
    def finish(self, encode_half: Tensor, task: int | Tensor) -> Tensor:
        """The latents (B, h, w, D) that such ones become behind the other half of the blocks."""
        return self._by_expert(self._finish, encode_half, task)[0]

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

    def _encode_half(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return self._merged_run(self._expert(task).halves[0], self._adapted(features, task))

    def _finish(self, encode_half: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return self._merged_run(self._expert(task).halves[1], encode_half)

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

    def _mix(self, _: int) -> list[SharedAffine]:
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
                self._require_task(task)
                return run(x, task)
            first, log_det = torch.empty_like(x), x.new_empty(x.shape[:-1])
            for one in task.unique().tolist():
                self._require_task(one)
                rows = (task == one).to(x.device)
                first[rows], log_det[rows] = run(x[rows], one)
            return first, log_det

    def adapter_of(self, task: int) -> Any:
        """The input adapter of a task; None where adapters are switched off."""
        return self.input_adapters[str(task)] if self.use_task_adapter else None

    def _require_task(self, task: int) -> None:
        if task not in self.tasks:
            raise KeyError(f"no expert for task {task}: the flow knows tasks {self.tasks}")
