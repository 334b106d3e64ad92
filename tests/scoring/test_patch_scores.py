"""Every score on a flow of which each step is written out."""

import math

import pytest
import torch
from torch import Tensor

from moleflow_pl.scoring.patch_scores import (
    PATCH_SCORES,
    LatentBankScore,
    PatchFeatures,
    TwoDepthBankScore,
)


class Doubling:
    """Doubles the features in each half."""

    def __call__(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return 4 * features, torch.full(features.shape[:-1], 2 * math.log(4))

    def encode_half(self, features: Tensor, task: int) -> Tensor:
        return 2 * features

    def finish(self, latent: Tensor, task: int) -> Tensor:
        return 2 * latent


def test_every_score_knows_its_name() -> None:
    assert set(PATCH_SCORES) >= {"nll", "norm", "bank", "depths", "groups"}
    assert all(score.name == name for name, score in PATCH_SCORES.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # of the point (3, 4) by hand
        ("norm", 20.0),
        ("nll", 200 + math.log(2 * math.pi) - 2 * math.log(4)),
        ("bank", 20.0),
        ("depths", math.sqrt(10**2 + 20**2)),
        ("groups", 5.0 + 50.0),
    ],
)
def test_score_is_what_it_says(name: str, expected: float) -> None:
    point = torch.tensor([3.0, 4.0]).expand(2, 1, 3, 2)
    features = PatchFeatures(point, lambda: [point, point])

    def search(vectors: Tensor, task: int, bank: int) -> Tensor:
        # the nearest vector of each bank is 0, and the second one measures in tenths
        return torch.linalg.vector_norm(vectors, dim=-1) * 10**bank

    found = PATCH_SCORES[name]()(Doubling(), features, 0, search)
    torch.testing.assert_close(found, torch.full((2, 1, 3), expected))


def test_what_is_compared_beyond_the_bank_follows_from_it() -> None:
    rows = torch.tensor([[1.0, -40000.0]])
    assert LatentBankScore().derive_channels(Doubling(), rows, 0) is None
    assert torch.equal(LatentBankScore().expand(Doubling(), rows, 0), rows)
    assert TwoDepthBankScore().derive_channels(Doubling(), rows, 0).tolist() == [[2, -80000]]
    assert TwoDepthBankScore().expand(Doubling(), rows, 0).tolist() == [[1, -40000, 2, -80000]]
