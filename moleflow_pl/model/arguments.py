"""The arguments that an inspector is built from: plain values, as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moleflow_pl._internal.validation import require_number
from moleflow_pl.features.extractor import Precision
from moleflow_pl.features.groups import GroupNorm

LARGEST_BANKS = 1000  # MB for each task
# arguments that determine which tensors and thresholds exist and what they mean
STRUCTURE = (
    "use_position", "coupling_layers", "clamp_alpha", "lora_rank", "lora_alpha", "use_lora",
    "use_task_adapter", "use_task_bias", "adapter", "prototype", "score", "image_score",
    "image_quantile",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """The arguments of `MoLEFlow`, which documents them, that inference depends on.

    Raises:
        ConfigError: a number is out of range.
    """

    backbone: str
    layers: Sequence[int] | Sequence[Sequence[int]]
    flow_groups: int
    group_norm: GroupNorm
    image_size: int | list[int]
    backbone_weights: str
    target_embed_dim: int | None
    smooth: int
    grid: int | list[int] | None
    tile: int | list[int] | None
    tile_overlap: int
    precision: Precision
    use_position: bool
    coupling_layers: int
    clamp_alpha: float
    lora_rank: int
    lora_alpha: float
    use_lora: bool
    use_task_adapter: bool
    use_task_bias: bool
    adapter: str
    score: str | Sequence[str]
    bank_mb: float
    router: str
    prototype: str
    image_score: str
    image_quantile: float

    def __post_init__(self) -> None:
        require_number("bank_mb", self.bank_mb, 0, LARGEST_BANKS, above=True)
        require_number("image_quantile", self.image_quantile, 0, 1)

    def structure(self) -> dict[str, Any]:
        """The arguments that determine which tensors and thresholds exist and what they mean."""
        return {name: getattr(self, name) for name in STRUCTURE}
