"""The part of an expert that stands before the flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IDENTITY_BLEND = 0.9  # share of the untouched input where there is no reference: task 0
MIN_HIDDEN = 128
LAST_LAYER_STD = 0.01
INITIAL_GATE = 0.5


class TaskInputAdapter(nn.Module):
    """Feature-wise modulation and a gated residual network on a task's input (FiLM).

    u = gamma * LayerNorm(x) + beta;  y = u + sigmoid(gate) * mlp(u). Without a reference, which is
    the first task alone, the input is kept for the most part: 0.9 x + 0.1 y.

    This map is not counted in the likelihood: training may lower the NLL by contracting every
    patch, normal and defective alike. It is the method's published form, kept for comparison.

    Args:
        channels: Width of the features, D.
        reference_mean: Mean of the first task's features (D,), kept for the report of drift; None
            for the first task itself.
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
        self.register_load_state_dict_post_hook(lambda module, _: module.recall_reference())

    def recall_reference(self) -> None:
        """Tell from the loaded tensors whether there is a reference: experts may be renumbered."""
        self.has_reference = bool(self.reference_mean.any() or (self.reference_std != 1).any())

    def forward(self, features: Tensor) -> Tensor:
        """Return the features as this task's expert wants them."""
        modulated = self.film_gamma * self.layer_norm(features) + self.film_beta
        adapted = modulated + torch.sigmoid(self.residual_gate) * self.mlp(modulated)
        if self.has_reference:
            return adapted
        return IDENTITY_BLEND * features + (1 - IDENTITY_BLEND) * adapted

    def log_det(self) -> Tensor:
        """Zero: the method counts this map as if it kept volumes."""
        return self.film_gamma.new_zeros(())

    def inverse(self, adapted: Tensor) -> Tensor:
        """Return `adapted`: this map has no inverse."""
        return adapted
