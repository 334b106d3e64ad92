"""Patch features of several depths of a backbone, side by side in one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl.errors import ConfigError

GroupNorm = Literal["none", "l2", "layer_norm"]
NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda features: features,
    "l2": lambda features: F.normalize(features, dim=-1),
    "layer_norm": lambda features: F.layer_norm(features, features.shape[-1:]),
}


@dataclass(frozen=True)
class FeatureGroups:
    """Which channels belong to which group of layers, and which groups the flow sees.

    Args:
        widths: Channels of each group.
        seen: Number of groups that the flow sees, the first ones.
        averaged: Whether it sees their mean; otherwise they are concatenated.
        norm: How each group is normalised by `split`.

    Shape: features (..., W), all groups side by side.

    Example:
        >>> groups = FeatureGroups((2, 2, 2), seen=2)
        >>> groups.joined(torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, 9.0]))
        tensor([2., 3.])
    """

    widths: tuple[int, ...]
    seen: int
    averaged: bool = True
    norm: GroupNorm = "l2"

    @property
    def dim(self) -> int:
        """Channels that the flow sees."""
        return self.widths[0] if self.averaged else sum(self.widths[: self.seen])

    def joined(self, features: Tensor) -> Tensor:
        """What the flow and the router see (..., D)."""
        if len(self.widths) == 1:
            return features
        seen = features.split(self.widths, -1)[: self.seen]
        return torch.stack(seen).mean(0) if self.averaged else torch.cat(seen, -1)

    def split(self, features: Tensor) -> list[Tensor]:
        """Each group separately, normalised."""
        return [NORMALISATIONS[self.norm](part) for part in features.split(self.widths, -1)]


def layer_groups(layers: Any) -> list[list[Any]]:
    """Layers as groups; a plain list of numbers is one group.

    Raises:
        ConfigError: numbers and lists are mixed, or the list is empty.

    Example:
        >>> layer_groups([4, 5]), layer_groups([[4, 5], [6]])
        ([[4, 5]], [[4, 5], [6]])
    """
    given = list(layers) if isinstance(layers, (list, tuple)) else []
    nested = [isinstance(entry, (list, tuple)) for entry in given]
    if not given or any(nested) != all(nested) or not all(given[: len(given) * any(nested)]):
        raise ConfigError(
            f"layers must be numbers, or groups of numbers such as [[4, 5], [6, 7]]: got {layers!r}"
        )
    return [list(entry) for entry in given] if all(nested) else [given]
