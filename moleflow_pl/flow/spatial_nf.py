"""The normalizing flow that all tasks share, and the experts on it.

The log-determinant is that of the forward direction, features to latent, in nats, one number for
each patch: log p(x) = log N(z; 0, I) + log_det.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from moleflow_pl._internal.libraries import SequenceINN
from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl._internal.validation import WIDEST, require_int, require_number
from moleflow_pl.flow.adapters import ADAPTERS, InputAdapter
from moleflow_pl.flow.coupling import MoLECoupling
from moleflow_pl.flow.lora import LARGEST_ALPHA, LARGEST_RANK, MoLESubnet
from moleflow_pl.flow.scoring_pass import MIXED_CPU_ROWS, ScoringPass, SharedAffine

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
            ValueError: the tasks are not as many as the images.
        """
        if torch.is_grad_enabled():
            return self._by_expert(self._forward, features, task)
        adapted, adapter_log_det = self._by_expert(self._adapt, features, task)
        latent, log_det = self._score(adapted, task, slice(None))
        return latent, log_det + adapter_log_det

    @torch.no_grad()
    def encode_half(self, features: Tensor, task: int | Tensor) -> Tensor:
        """Latents (B, h, w, D) after the first half of the blocks, without gradients.

        Args:
            features: (B, h, w, D).
            task: One task, or a LongTensor (B,).

        Raises:
            KeyError: a task was never added.
        """
        adapted, _ = self._by_expert(self._adapt, features, task)
        return self._score(adapted, task, slice(self._middle))[0]

    @torch.no_grad()
    def finish(self, latent: Tensor, task: int | Tensor) -> Tensor:
        """Pass the result of `encode_half` (B, h, w, D) through the second half of the blocks."""
        return self._score(latent, task, slice(self._middle, None))[0]

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
        adapted, adapter_log_det = self._adapt(features, task)
        latent, log_det = self._run(adapted, task)
        return latent, log_det + adapter_log_det

    def _adapt(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Features after the input adapter, and its log-determinant ()."""
        adapter = self.adapter_of(task)
        if adapter is None:
            return features, features.new_zeros(())
        return adapter(features), adapter.log_det()

    @property
    def _middle(self) -> int:
        """Number of blocks in the first half."""
        return len(self.flow) // 2

    def _score(self, x: Tensor, task: int | Tensor, blocks: slice) -> tuple[Tensor, Tensor]:
        """Pass adapted features through some of the blocks, without gradients."""
        tasks = self._tasks_of(x, task)
        # merging an expert pays from two images on, or if it stays cached
        merged = len(self.tasks) <= self._merged.size or 2 * len(tasks) <= max(len(x), 2)
        if isinstance(task, Tensor) and not merged:
            return self._mixed_pass(x, task, blocks)
        return self._by_expert(partial(self._merged_pass, blocks=blocks), x, task)

    def _merged_pass(self, x: Tensor, task: int, blocks: slice) -> tuple[Tensor, Tensor]:
        tensors = self.base_parameters() + self.expert_parameters(task)
        return through(self._merged.get(task, tensors).part(blocks), x)

    def _mixed_pass(self, x: Tensor, tasks: Tensor, blocks: slice) -> tuple[Tensor, Tensor]:
        pairs = list(zip(self.flow, self._affines(), strict=True))[blocks]
        on_cpu = x.device.type == "cpu"
        images = max(MIXED_CPU_ROWS // x[0, ..., 0].numel(), 1) if on_cpu else len(x)
        passed = []
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.reference_mean.dtype)
            for part, these in zip(x.split(images), tasks.split(images), strict=True):
                mixed = [block.mixed(these.tolist(), affine) for block, affine in pairs]
                passed.append(through(ScoringPass(mixed, MIXED_CPU_ROWS), part))
        latents, log_dets = zip(*passed, strict=True)
        return torch.cat(latents), torch.cat(log_dets)

    def _affines(self) -> list[SharedAffine]:
        return self._shared_affines.get(0, self.base_parameters())

    def _build_shared_affines(self, _: int) -> list[SharedAffine]:
        return [block.shared_affine() for block in self.flow]

    def _merge(self, task: int) -> ScoringPass:
        pairs = zip(self.flow, self._affines(), strict=True)
        return ScoringPass([block.merged(task, affine) for block, affine in pairs])

    def _run(self, x: Tensor, task: int, rev: bool = False) -> tuple[Tensor, Tensor]:
        return through(lambda rows: self.flow(rows, c=[task], rev=rev), x)

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
        tasks = self._tasks_of(x, task)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.reference_mean.dtype)
            if len(tasks) == 1:
                return run(x, tasks[0])
            output, log_det = torch.empty_like(x), x.new_empty(x.shape[:-1])
            for index in tasks:
                rows = places_of(index, cast(Tensor, task), x.device)
                output[rows], log_det[rows] = run(x[rows], index)
            return output, log_det

    def adapter_of(self, task: int) -> InputAdapter | None:
        """The input adapter of a task; None where adapters are switched off."""
        if not self.use_task_adapter:
            return None
        return cast(InputAdapter, self.input_adapters[str(task)])

    def _tasks_of(self, x: Tensor, task: int | Tensor) -> list[int]:
        """The distinct tasks of a batch, all of which have an expert."""
        if isinstance(task, Tensor) and task.shape != x.shape[:1]:
            raise ValueError(f"give each of {len(x)} images a task, not {tuple(task.shape)} tasks")
        tasks = task.unique().tolist() if isinstance(task, Tensor) else [task]
        for index in tasks:
            self._require_task(index)
        return tasks

    def _require_task(self, task: int) -> None:
        if task not in self.tasks:
            raise KeyError(
                f"no expert for task {task}: the flow has {self.tasks}; call add_task first"
            )


def through(blocks: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (B, h, w, D) and log-determinants (B, h, w) of patches (B, h, w, D), row by row."""
    rows, log_det = blocks(x.reshape(-1, x.shape[-1]))
    return rows.reshape(x.shape), log_det.reshape(x.shape[:-1])


def places_of(task: int, tasks: Tensor, device: torch.device) -> slice | Tensor:
    """Where a task is among those of images (B,): a slice, which copies nothing, or indices.

    Example:
        >>> places_of(3, torch.tensor([1, 3, 3]), torch.device("cpu"))
        slice(1, 3, None)
    """
    places = (tasks == task).nonzero()[:, 0]
    first, last = int(places[0]), int(places[-1])
    together = last - first + 1 == len(places)
    return slice(first, last + 1) if together else places.to(device)
