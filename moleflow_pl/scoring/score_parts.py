"""Several patch scores as parts of one sum, and what a task stores for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_pl.scoring.memory_bank import MemoryBank
from moleflow_pl.scoring.patch_scores import BankScore, Flow, PatchFeatures, PatchScore

# name of the part, vectors (B, h, w, C), the task, number of the bank -> distances (B, h, w)
PartSearch = Callable[[str, Tensor, Any, int], Tensor]


class PartMemory(nn.ModuleList):
    """What a task stores for one part of its score: memory banks, if any, and its scale.

    Shape: buffer `scale` (), the median score of good images' patches.
    """

    def __init__(self, banks: Sequence[MemoryBank] = ()) -> None:
        super().__init__(banks)
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor


class ScoreParts:
    """Patch scores that are added, each divided by its scale.

    A single score keeps its unit. A task has one scale for each part, from its good images.

    Args:
        parts: One or more scores with different names.
    """

    def __init__(self, parts: Sequence[PatchScore]) -> None:
        self.parts = {part.name: part for part in parts}

    @property
    def with_banks(self) -> dict[str, BankScore]:
        """The parts that compare with memory banks."""
        return {name: part for name, part in self.parts.items() if isinstance(part, BankScore)}

    @property
    def all_have_banks(self) -> bool:
        """Whether every part compares with memory banks."""
        return len(self.with_banks) == len(self.parts)

    @property
    def are_scaled(self) -> bool:
        """Whether scores are divided by scales."""
        return len(self.parts) > 1

    @property
    def needs_memory(self) -> bool:
        """Whether a task has to store banks or scales for its scores."""
        return self.are_scaled or bool(self.with_banks)

    def part_scores(
        self, flow: Flow, features: PatchFeatures, task: Any, search: PartSearch
    ) -> dict[str, Tensor]:
        """The scores (B, h, w) of every part, in its own unit."""
        return {
            name: part(flow, features, task, partial(search, name))
            for name, part in self.parts.items()
        }

    def total(self, scores: dict[str, Tensor], scale: Callable[[str], Tensor]) -> Tensor:
        """The sum (B, h, w) of the scores of `each`, divided by their scales () or (B,)."""
        if not self.are_scaled:
            return next(iter(scores.values()))
        standardised = [score / scale(name)[..., None, None] for name, score in scores.items()]
        return torch.stack(standardised).sum(0)
