"""The normalizing flow that all tasks share, and the experts on it.

The log-determinant is that of the forward direction, features to latent, in nats, one number for
each patch: log p(x) = log N(z; 0, I) + log_det.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from moleflow_pl._internal.libraries import SequenceINN
from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl._internal.validation import WIDEST, require_int, require_number
from moleflow_pl.flow.adapters import ADAPTERS, InputAdapter
from moleflow_pl.flow.coupling import MoLECoupling
from moleflow_pl.flow.lora import LARGEST_ALPHA, LARGEST_RANK, MoLESubnet
from moleflow_pl.flow.merged import MergedExpert, SharedAffine

MOST_LAYERS = 256
CACHED_EXPERTS = 16  # experts whose merged weights are kept
LARGEST_CLAMP = 80.0  # exp of a larger log-scale overflows float32


class MoLESpatialAwareNF(nn.Module):
    """One flow for all tasks, with an expert for each.

    An expert is an input adapter before the flow, and low-rank factors and bias shifts in every
    subnet. The base trains with task 0 and is frozen from task 1 on. Each call names the task; the
    flow has no active task.

    Args:
        embed_dim: Channels of a patch, D.
        coupling_layers: Number of coupling blocks.
        clamp_alpha: Largest log-scale of one coupling.
        lora_rank: Rank of the experts.
        lora_alpha: Strength of the experts before division by the rank.
        use_lora: Experts have low-rank factors.
        use_task_adapter: Experts have an input adapter.
        use_task_bias: Experts have bias shifts.
        adapter: Input adapter, a name in `ADAPTERS`: `film`, as the method was published,
            `whitening`, or your own.

    Shape: features (B, h, w, D), position already added -> latent (B, h, w, D), log_det (B, h, w).

    Raises:
        ConfigError: an argument has a value it cannot have.

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
        adapter: str = "film",
    ) -> None:
        super().__init__()
        require_int("embed_dim", embed_dim, 2, WIDEST)
        require_int("coupling_layers", coupling_layers, 1, MOST_LAYERS)
        require_number("clamp_alpha", clamp_alpha, 0, LARGEST_CLAMP, above=True)
        require_int("lora_rank", lora_rank, 1, LARGEST_RANK)
        require_number("lora_alpha", lora_alpha, 0, LARGEST_ALPHA, above=True)
        self.embed_dim = embed_dim
        self.use_task_adapter = use_task_adapter
        self.adapter_class = ADAPTERS[adapter]
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
        self._shared_affines = TensorCache(self._build_shared_affines, size=1)
        self._merged = TensorCache(self._merge, size=CACHED_EXPERTS)

    def add_task(self, task: int) -> None:
        """Create the expert of `task`, and let only what `task` trains require gradients.

        Raises:
            ValueError: the task has an expert already.
        """
        if task in self.tasks:
            raise ValueError(f"task {task} already has an expert: the flow has {self.tasks}")
        # all others are frozen already, and those of a thousand tasks are many
        trained = [p for last in self.tasks[-1:] for p in self.expert_parameters(last)]
        for block in self.flow:
            block.subnet.add_task(task)
        if self.use_task_adapter:
            self.input_adapters[str(task)] = self._new_adapter(task).to(self.reference_mean)
        self.tasks.append(task)
        for parameter in self.base_parameters() + trained:
            parameter.requires_grad_(False)
        for parameter in self.parameters_for(task):
            parameter.requires_grad_(True)

    def _new_adapter(self, task: int) -> InputAdapter:
        reference = None if task == 0 else (self.reference_mean, self.reference_std)
        return self.adapter_class.build(self.embed_dim, reference)

    def set_reference(self, mean: Tensor, std: Tensor) -> None:
        """Store the first task's mean and standard deviation (D,) for later adapters."""
        self.reference_mean.copy_(mean)
        self.reference_std.copy_(std)

    def base_parameters(self) -> list[nn.Parameter]:
        """The shared weights, in a fixed order."""
        return [parameter for block in self.flow for parameter in block.base_parameters()]

    def expert_parameters(self, task: int) -> list[nn.Parameter]:
        """The weights of `task` alone, in a fixed order.

        Raises:
            KeyError: the task was never added.
        """
        self._require_task(task)
        adapter = self.adapter_of(task)
        parameters = [] if adapter is None else list(adapter.parameters())
        return parameters + [p for block in self.flow for p in block.subnet.expert_parameters(task)]

    def parameters_for(self, task: int) -> list[nn.Parameter]:
        """The weights that `task` trains: its expert, and for task 0 the base too."""
        expert = self.expert_parameters(task)
        return self.base_parameters() + expert if task == 0 else expert

    def forward(self, features: Tensor, task: int | Tensor) -> tuple[Tensor, Tensor]:
        """Map features to latent and log-determinant, by one expert or one for each image.

        Args:
            features: (B, h, w, D).
            task: One task, or a LongTensor (B,).

        Raises:
            KeyError: a task was never added.
        """
        return self._by_expert(self._forward, features, task)

    @torch.no_grad()
    def encode_half(self, features: Tensor, task: int | Tensor) -> Tensor:
        """Latents (B, h, w, D) after the first half of the blocks, without gradients.

        Args:
            features: (B, h, w, D).
            task: One task, or a LongTensor (B,).

        Raises:
            KeyError: a task was never added.
        """
        return self._by_expert(self._encode_half, features, task)[0]

    @torch.no_grad()
    def finish(self, latent: Tensor, task: int | Tensor) -> Tensor:
        """Pass the result of `encode_half` (B, h, w, D) through the second half of the blocks."""
        return self._by_expert(self._finish, latent, task)[0]

    def inverse(self, latent: Tensor, task: int | Tensor) -> Tensor:
        """Map a latent (B, h, w, D) back to features.

        If the input adapter has no inverse, the result is the features after it.
        """

        def inverse(latent: Tensor, task: int) -> tuple[Tensor, Tensor]:
            adapted, log_det = self._run(latent, task, rev=True)
            adapter = self.adapter_of(task)
            return adapted if adapter is None else adapter.inverse(adapted), log_det

        return self._by_expert(inverse, latent, task)[0]

    def _forward(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        latent, log_det = self._run_blocks(self._adapted(features, task), task)
        adapter = self.adapter_of(task)
        return latent, log_det if adapter is None else log_det + adapter.log_det()

    def _encode_half(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return self._merged_run(self._expert(task).halves[0], self._adapted(features, task))

    def _finish(self, latent: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return self._merged_run(self._expert(task).halves[1], latent)

    def _adapted(self, features: Tensor, task: int) -> Tensor:
        adapter = self.adapter_of(task)
        return features if adapter is None else adapter(features)

    def _run_blocks(self, adapted: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Run all blocks, with merged weights where no gradient is needed."""
        if torch.is_grad_enabled():
            return self._run(adapted, task)
        return self._merged_run(self._expert(task), adapted)

    def _merged_run(self, expert: MergedExpert, x: Tensor) -> tuple[Tensor, Tensor]:
        latent, log_det = expert(x.reshape(-1, self.embed_dim))
        return latent.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def _expert(self, task: int) -> MergedExpert:
        return self._merged.get(task, self.base_parameters() + self.expert_parameters(task))

    def _build_shared_affines(self, _: int) -> list[SharedAffine]:
        return [block.shared_affine() for block in self.flow]

    def _merge(self, task: int) -> MergedExpert:
        shared_affines = self._shared_affines.get(0, self.base_parameters())
        pairs = zip(self.flow, shared_affines, strict=True)
        return MergedExpert([block.merged(task, shared_affine) for block, shared_affine in pairs])

    def _run(self, x: Tensor, task: int, rev: bool = False) -> tuple[Tensor, Tensor]:
        rows, log_det = self.flow(x.reshape(-1, self.embed_dim), c=[task], rev=rev)
        return rows.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def _by_expert(
        self,
        run: Callable[[Tensor, int], tuple[Tensor, Tensor]],
        x: Tensor,
        task: int | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Call `run` once for each task in the batch, and return results in the batch's order.

        Autocast is off: in half precision a log-density has a larger error than its spread over
        patches.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.reference_mean.dtype)
            if not isinstance(task, Tensor):
                self._require_task(task)
                return run(x, task)
            output, log_det = torch.empty_like(x), x.new_empty(x.shape[:-1])
            for index in task.unique().tolist():
                self._require_task(index)
                rows = (task == index).to(x.device)
                output[rows], log_det[rows] = run(x[rows], index)
            return output, log_det

    def adapter_of(self, task: int) -> InputAdapter | None:
        """The input adapter of a task; None where adapters are switched off."""
        if not self.use_task_adapter:
            return None
        return cast(InputAdapter, self.input_adapters[str(task)])

    def _require_task(self, task: int) -> None:
        if task not in self.tasks:
            raise KeyError(
                f"no expert for task {task}: the flow has {self.tasks}; call add_task first"
            )
