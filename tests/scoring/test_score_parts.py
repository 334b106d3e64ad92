from typing import Any

import torch
from torch import Tensor

from moleflow_pl.scoring.patch_scores import (
    BankScore,
    Flow,
    PatchFeatures,
    PatchScore,
)
from moleflow_pl.scoring.score_parts import ScoreParts


class Constant(PatchScore):
    """The same score for every patch."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value  # type: ignore[misc]

    def __call__(self, flow: Any, features: PatchFeatures, task: Any, search: Any) -> Tensor:
        return torch.full(features.joined.shape[:-1], self.value)


class Stored(BankScore):
    """The distance in the features as they are."""

    name = "stored"

    def encode(self, flow: Flow, features: PatchFeatures, task: Any) -> list[Tensor]:
        return [features.joined, features.joined]


FEATURES = PatchFeatures(torch.zeros(2, 1, 3, 4), list)


def search(name: str, vectors: Tensor, task: Any, bank: int) -> Tensor:
    assert name == "stored"
    return torch.full(vectors.shape[:-1], task + bank)


def test_a_single_score_keeps_its_unit() -> None:
    parts = ScoreParts([Constant("a", 6.0)])
    assert not parts.are_scaled
    assert not parts.needs_memory
    found = parts.part_scores(None, FEATURES, 0, search)  # type: ignore[arg-type]
    total = parts.total(found, lambda name: torch.tensor(2.0))
    assert torch.equal(total, torch.full((2, 1, 3), 6.0))


def test_several_scores_are_added_by_the_scales_of_each_image() -> None:
    parts = ScoreParts([Constant("a", 6.0), Stored()])
    assert parts.needs_memory
    assert list(parts.with_banks) == ["stored"]
    found = parts.part_scores(None, FEATURES, 10, search)  # type: ignore[arg-type]
    scales = {"a": torch.tensor([2.0, 3.0]), "stored": torch.tensor([1.0, 7.0])}
    total = parts.total(found, scales.__getitem__)
    assert total[:, 0, 0].tolist() == [6 / 2 + 21, 6 / 3 + 21 / 7]
