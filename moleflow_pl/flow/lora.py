"""The layers of the coupling subnets: a shared base and a low-rank expert for each task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.flow.autograd import MergedLinear
from moleflow_pl.flow.scoring_pass import MergedLayer, MixedLayer

LARGEST_RANK = 4096
LARGEST_ALPHA = 1e6


class LoRALinear(nn.Module):
    """Shared linear layer with a low-rank correction and a bias shift for each task.

    For task t:  y = W x + b + s B_t A_t x + d_t,   s = alpha / rank.
    W and b (`base_linear`) train with task 0 only. B_t (`lora_B`) and d_t (`task_biases`) start at
    zero, so that a new task starts as the shared layer; A_t (`lora_A`) starts Xavier uniform.

    Args:
        in_features: Channels in, D_in.
        out_features: Channels out, D_out.
        rank: Inner size of the correction, at least 1.
        alpha: Strength of the correction before division by the rank.
        bias: Give the layer, and so every task, a bias.
        use_lora: Give each task its A and B.
        use_task_bias: Give each task its bias shift.

    Shape: x (..., D_in) -> y (..., D_out); `task=None` is the shared layer alone.

    Raises:
        ConfigError: the rank or the strength is out of range.
        KeyError: the task was never added.

    References: Hu et al. 2021, arXiv:2106.09685, section 4.1.

    Example:
        >>> layer = LoRALinear(4, 3, rank=2)
        >>> layer.add_task(0)
        >>> x = torch.ones(1, 4)
        >>> torch.equal(layer(x, task=0), layer(x))
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 4,
        alpha: float = 1.0,
        bias: bool = True,
        use_lora: bool = True,
        use_task_bias: bool = True,
    ) -> None:
        super().__init__()
        require_int("rank", rank, 1, LARGEST_RANK)
        require_number("alpha", alpha, 0, LARGEST_ALPHA, above=True)
        self.rank = rank
        self.scaling = alpha / rank
        self.use_lora = use_lora
        self.use_task_bias = use_task_bias and bias
        self.base_linear = nn.Linear(in_features, out_features, bias=bias)
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.task_biases = nn.ParameterDict()
        self._tasks: set[int] = set()

    def add_task(self, task: int) -> None:
        """Create the expert of `task`, which starts as the shared layer."""
        weight, key = self.base_linear.weight, str(task)
        out_features, in_features = weight.shape
        if self.use_lora:
            # drawn on the CPU, so that an expert starts the same on all devices
            down = nn.init.xavier_uniform_(torch.empty(self.rank, in_features)).to(weight)
            self.lora_A[key] = nn.Parameter(down)
            self.lora_B[key] = nn.Parameter(weight.new_zeros(out_features, self.rank))
        if self.use_task_bias:
            self.task_biases[key] = nn.Parameter(weight.new_zeros(out_features))
        self._tasks.add(task)

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """Apply the expert of `task`, or the shared layers alone."""
        if task is None:
            return self.base_linear(x)
        self._require_task(task)
        weight, bias = self.base_linear.weight, self._bias(task)
        if not self.use_lora:
            return F.linear(x, weight, bias)
        down, up = self.lora_A[str(task)], self.lora_B[str(task)]
        rows = MergedLinear.apply(x.flatten(0, -2), weight, down, up, bias, self.scaling)
        return rows.unflatten(0, x.shape[:-1])

    def merged(self, task: int) -> MergedLayer:
        """The layer of a task in dense weights, without gradients."""
        bias = self._bias(task)
        return MergedLayer(self.get_merged_weight(task), None if bias is None else bias.detach())

    @torch.no_grad()
    def mixed(self, tasks: Sequence[int]) -> MixedLayer:
        """The layer for a batch whose images have the experts of `tasks`, without gradients."""
        weight, bias = self.base_linear.weight, self.base_linear.bias
        base = weight.new_zeros(len(weight)) if bias is None else bias

        def stacked(owner: nn.ParameterDict) -> Tensor:
            return torch.stack([owner[str(task)] for task in tasks])

        biases = (
            base + stacked(self.task_biases)
            if self.use_task_bias
            else base[None].expand(len(tasks), -1)
        )
        factors = (stacked(self.lora_A), stacked(self.lora_B)) if self.use_lora else None
        return MixedLayer(weight, biases[:, None], factors, self.scaling)

    def get_merged_weight(self, task: int) -> Tensor:
        """Dense weight of a task, W + s B_t A_t, shape (D_out, D_in)."""
        self._require_task(task)
        weight = self.base_linear.weight.detach()
        if not self.use_lora:
            return weight.clone()
        down, up = self.lora_A[str(task)].detach(), self.lora_B[str(task)].detach()
        return torch.addmm(weight, up, down, alpha=self.scaling)

    def base_parameters(self) -> list[nn.Parameter]:
        """The shared weights: task 0 trains them, later tasks do not."""
        return list(self.base_linear.parameters())

    def expert_parameters(self, task: int) -> list[nn.Parameter]:
        """The weights of `task` alone."""
        self._require_task(task)
        owners = (self.lora_A, self.lora_B, self.task_biases)
        return [owner[str(task)] for owner in owners if str(task) in owner]

    def _bias(self, task: int) -> Tensor | None:
        bias = self.base_linear.bias
        return bias + self.task_biases[str(task)] if self.use_task_bias else bias

    def _require_task(self, task: int) -> None:
        if task not in self._tasks:
            raise KeyError(
                f"no expert for task {task}: this layer has {sorted(self._tasks)}; call add_task "
                "first"
            )


class MoLESubnet(nn.Module):
    """Predicts a coupling's scales and shifts: linear, ReLU, linear, with experts in both.

    Args:
        dims_in: Channels in; the hidden layer has twice as many.
        dims_out: Channels out.
        rank: Rank of the experts.
        alpha: Strength of the experts, see `LoRALinear`.
        use_lora: Give each task low-rank factors.
        use_task_bias: Give each task bias shifts.

    Shape: (..., dims_in) -> (..., dims_out).
    """

    def __init__(
        self,
        dims_in: int,
        dims_out: int,
        rank: int = 4,
        alpha: float = 1.0,
        use_lora: bool = True,
        use_task_bias: bool = True,
    ) -> None:
        super().__init__()
        hidden = 2 * dims_in

        def layer(width_in: int, width_out: int) -> LoRALinear:
            return LoRALinear(
                width_in, width_out, rank, alpha, use_lora=use_lora, use_task_bias=use_task_bias
            )

        self.layer1 = layer(dims_in, hidden)
        self.layer2 = layer(hidden, dims_out)

    def add_task(self, task: int) -> None:
        """Create the expert of `task` in both layers."""
        for layer in (self.layer1, self.layer2):
            layer.add_task(task)

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """Apply the expert of `task`, or the shared layers alone."""
        return self.layer2(F.relu(self.layer1(x, task), inplace=True), task)

    def base_parameters(self) -> list[nn.Parameter]:
        """The shared weights: task 0 trains them, later tasks do not."""
        return self.layer1.base_parameters() + self.layer2.base_parameters()

    def expert_parameters(self, task: int) -> list[nn.Parameter]:
        """The weights of `task` alone."""
        return self.layer1.expert_parameters(task) + self.layer2.expert_parameters(task)
