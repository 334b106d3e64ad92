"""Every score on a flow of which each step is written out."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from moleflow_pl.scoring.patch_scores import SCORES, BankScore, ScoreName, TwoDepthBankScore


class Doubling:
    """Half-way the features doubled, at the end doubled again."""

    def __call__(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return 4 * features, torch.full(features.shape[:-1], 2 * math.log(4))

    def encode_half(self, features: Tensor, task: int) -> Tensor:
        return 2 * features

    def finish(self, encode_half: Tensor, task: int) -> Tensor:
        return 2 * encode_half


def test_every_name_has_its_score() -> None:
    assert set(SCORES) == set(get_args(ScoreName))
    assert all(score.name == name for name, score in SCORES.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # of the point (3, 4) by hand
        ("norm", 20.0),
        ("nll", 200 + math.log(2 * math.pi) - 2 * math.log(4)),
        ("bank", 20.0),
        ("depths", math.sqrt(10**2 + 20**2)),
    ],
)
def test_score_is_what_it_says(name: str, expected: float) -> None:
    features = torch.tensor([3.0, 4.0]).expand(2, 1, 3, 2)
    # the nearest kept latent is 0
    found = SCORES[name]()(
        Doubling(), features, 0, lambda latent, task: torch.linalg.vector_norm(latent, dim=-1)
    )
    torch.testing.assert_close(found, torch.full((2, 1, 3), expected))


def test_what_is_compared_has_the_precision_of_what_is_kept() -> None:
    rows = torch.tensor([[1.0, -40000.0]])
    assert torch.equal(BankScore().compared(Doubling(), rows, 0), rows)
    both = TwoDepthBankScore().compared(Doubling(), rows.half(), 0)
    assert both.dtype == torch.half
    largest = torch.finfo(torch.half).max  # beyond which an outlier lies
    assert both.tolist() == [[1, -40000, 2, -largest]]
    assert TwoDepthBankScore().compared(Doubling(), rows, 0).tolist() == [[1, -40000, 2, -80000]]
