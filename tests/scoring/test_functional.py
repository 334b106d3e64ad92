import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.distributions import Normal

from moleflow_pl.scoring.functional import anomaly_map, patch_nll, quantile_score, tail_mean


def test_patch_nll_is_that_of_a_standard_normal_minus_log_det() -> None:
    latent, log_det = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4)
    expected = -Normal(0.0, 1.0).log_prob(latent).sum(-1) - log_det
    torch.testing.assert_close(patch_nll(latent, log_det), expected)


def test_quantile_score_is_numpys_quantile() -> None:
    scores = torch.randn(3, 16, 16)
    expected = np.quantile(scores.numpy().reshape(3, -1), 0.99, axis=1)
    np.testing.assert_allclose(quantile_score(scores), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "quantile", "patches"),
    [(16, 0.98, 6), (16, 0.99, 3), (10, 0.99, 1), (3, 0.98, 1), (3, 0.99, 1), (10, 0.9, 10)],
)
def test_tail_mean_is_the_mean_of_the_highest(side: int, quantile: float, patches: int) -> None:
    scores = torch.randn(3, side, side)
    expected = np.sort(scores.numpy().reshape(3, -1))[:, -patches:].mean(1)
    np.testing.assert_allclose(tail_mean(scores, quantile), expected, rtol=1e-5)


def test_blur_equals_scipys_away_from_the_border() -> None:
    scores = torch.randn(1, 64, 64)
    blurred = anomaly_map(scores, (64, 64), sigma=2.0)
    expected = gaussian_filter(scores[0].numpy(), 2.0, mode="mirror")
    np.testing.assert_allclose(blurred[0], expected, atol=1e-5)


def test_map_without_blur_is_plain_interpolation() -> None:
    scores = torch.rand(2, 4, 6)
    expected = torch.nn.functional.interpolate(scores[:, None], (8, 12), mode="bilinear")[:, 0]
    assert torch.equal(anomaly_map(scores, (8, 12), sigma=0), expected)


@pytest.mark.parametrize("upsampling", ["nearest", "bicubic"])
def test_upsampling_is_a_choice(upsampling: str) -> None:
    scores = torch.rand(1, 2, 2)
    expected = torch.nn.functional.interpolate(scores[:, None], (4, 4), mode=upsampling)[:, 0]
    assert torch.equal(anomaly_map(scores, (4, 4), 0, upsampling), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(3, 5), (8, 200)])
def test_small_and_oblong_maps_can_be_blurred(size: tuple[int, int]) -> None:
    assert anomaly_map(torch.rand(1, 2, 2), size).shape == (1, *size)


def test_constant_scores_stay_constant() -> None:
    maps = anomaly_map(torch.full((1, 4, 4), math.pi), (32, 32))
    torch.testing.assert_close(maps, torch.full((1, 32, 32), math.pi))
