"""The input adapter of the published method: FiLM, not counted in the likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl.flow.adapters import ADAPTERS, InputAdapter, Reference
from moleflow_pl.flow.stack import Stack

IDENTITY_BLEND = 0.9  # share of the unchanged input where there is no reference: task 0
MIN_HIDDEN = 128
LAST_LAYER_STD = 0.01
INITIAL_GATE = 0.5
LINEAR_LAYERS = (0, 2, 4)  # of `mlp`, between its activations


@ADAPTERS.add("film")
class TaskInputAdapter(InputAdapter):
    """Feature-wise modulation and a gated residual network on a task's input (FiLM).

    u = gamma * LayerNorm(x) + beta;  y = u + sigmoid(gate) * mlp(u). Without a reference, that is
    for the first task, most of the input passes unchanged: 0.9 x + 0.1 y.

    This map is not counted in the likelihood: training may lower the NLL by contracting every
    patch, normal and defective alike. It is the method's published form, kept for comparison.

    Args:
        channels: Width of the features, D.
        reference_mean: Mean of the first task's features (D,), for the report's drift; None for
            the first task itself.
        reference_std: Their standard deviation (D,).
        use_norm: Normalise every patch over its channels first.

    Shape: (B, h, w, D) -> (B, h, w, D).

    References: Perez et al. 2018, arXiv:1709.07871, section 2.

    Example:
        >>> adapter = TaskInputAdapter(8)
        >>> adapter(torch.zeros(1, 2, 2, 8)).shape
        torch.Size([1, 2, 2, 8])
    """

    def __init__(
        self,
        channels: int,
        reference_mean: Tensor | None = None,
        reference_std: Tensor | None = None,
        use_norm: bool = True,
    ) -> None:
        super().__init__()
        self.has_reference = reference_mean is not None
        mean = torch.zeros(channels) if reference_mean is None else reference_mean.detach().clone()
        std = torch.ones(channels) if reference_std is None else reference_std.detach().clone()
        self.register_buffer("reference_mean", mean)
        self.register_buffer("reference_std", std)
        self.reference_mean: Tensor
        self.reference_std: Tensor
        self.film_gamma = nn.Parameter(torch.ones(1, 1, 1, channels))
        self.film_beta = nn.Parameter(torch.zeros(1, 1, 1, channels))
        hidden = max(channels // 2, MIN_HIDDEN)
        last = nn.Linear(hidden, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last
        )
        nn.init.normal_(last.weight, std=LAST_LAYER_STD)
        nn.init.zeros_(last.bias)
        self.residual_gate = nn.Parameter(torch.tensor([INITIAL_GATE]))
        self.layer_norm = nn.LayerNorm(channels) if use_norm else nn.Identity()
        self.register_load_state_dict_post_hook(update_after_loading)

    @classmethod
    def build(cls, channels: int, reference: Reference | None) -> Self:
        return cls(channels, *(reference or (None, None)))

    @classmethod
    def stacked(cls, adapters: Sequence[TaskInputAdapter]) -> StackedFilm:
        return StackedFilm(adapters)

    def update_has_reference(self) -> None:
        """Derive `has_reference` from the loaded tensors: importing an expert renumbers it."""
        self.has_reference = bool(self.reference_mean.any() or (self.reference_std != 1).any())

    def forward(self, features: Tensor) -> Tensor:
        """Modulate features and blend them with the input where there is no reference."""
        modulated = self.film_gamma * self.layer_norm(features) + self.film_beta
        adapted = modulated + torch.sigmoid(self.residual_gate) * self.mlp(modulated)
        if self.has_reference:
            return adapted
        return IDENTITY_BLEND * features + (1 - IDENTITY_BLEND) * adapted

    def log_det(self) -> Tensor:
        """Zero: the method treats this map as if it preserved volume."""
        return self.film_gamma.new_zeros(())

    def inverse(self, adapted: Tensor) -> Tensor:
        """Return `adapted`: this map has no inverse."""
        return adapted


def update_after_loading(adapter: TaskInputAdapter, keys: Any) -> None:
    """Update an adapter after loading; a module-level function, so that it can be pickled."""
    adapter.update_has_reference()


class StackedFilm(Stack):
    """The `TaskInputAdapter`s of several tasks.

    Shape: features (B, n, D), index (B,) -> (B, n, D).
    """

    def __init__(self, adapters: Sequence[TaskInputAdapter]) -> None:
        layers: list[list[Any]] = [[a.mlp[i] for i in LINEAR_LAYERS] for a in adapters]
        norms: list[Any] = [adapter.layer_norm for adapter in adapters]
        blends = [0.0 if adapter.has_reference else IDENTITY_BLEND for adapter in adapters]
        super().__init__(
            gamma=[adapter.film_gamma[0, 0] for adapter in adapters],
            beta=[adapter.film_beta[0, 0] for adapter in adapters],
            gate=[torch.sigmoid(adapter.residual_gate)[None] for adapter in adapters],
            blend=[torch.tensor([[blend]]) for blend in blends],
            norm_weight=[norm.weight[None] for norm in norms],
            norm_bias=[norm.bias[None] for norm in norms],
            **{f"weight{i}": [linears[i].weight.T for linears in layers] for i in range(3)},
            **{f"bias{i}": [linears[i].bias[None] for linears in layers] for i in range(3)},
        )
        self.eps = norms[0].eps

    def forward(self, features: Tensor, index: Tensor) -> Tensor:
        """Modulate each image as the adapter of its task does."""
        normed = F.layer_norm(features, features.shape[-1:], eps=self.eps)
        normed = normed * self.select("norm_weight", index) + self.select("norm_bias", index)
        modulated = self.select("gamma", index) * normed + self.select("beta", index)
        x = modulated
        for i in range(3):
            x = x @ self.select(f"weight{i}", index) + self.select(f"bias{i}", index)
            x = F.gelu(x) if i < 2 else x
        adapted = modulated + self.select("gate", index) * x
        blend = self.select("blend", index)
        return blend * features + (1 - blend) * adapted
