from collections.abc import Callable

import numpy as np
import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.model import task_statistics
from moleflow_pl.model.task_statistics import TaskStatistics


def test_statistics_equal_numpys_whatever_the_batches(
    tiny_model: Callable[..., MoLEFlow],
) -> None:
    inspector = tiny_model(prototype="mean", use_position=False, score="norm").inspector
    features = torch.randn(10, 3, 3, 64)
    statistics = TaskStatistics(inspector, 0, "a", seed=0)
    for batch in features.split([1, 4, 5]):
        statistics.update(batch)
    statistics.gather()
    rows = features.double().numpy()
    np.testing.assert_allclose(statistics.images.mean, rows.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(statistics.images.covariance, np.cov(rows.mean((1, 2)).T), atol=1e-6)
    np.testing.assert_allclose(statistics.patches.mean, rows.mean((0, 1, 2)), atol=1e-6)
    inspector.flow.set_reference(statistics.patches.mean, 2 * torch.ones(64))
    assert statistics.drift() < 1e-6
    inspector.flow.set_reference(statistics.patches.mean - 3, 2 * torch.ones(64))
    np.testing.assert_allclose(statistics.drift(), 1.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("score", "most", "count", "channels"),
    [
        ("norm", 1000, 0, 0), ("bank", 1000, 180, 64), ("bank", 40, 40, 64),
        (["norm", "depths", "groups"], 1000, 180, 192),
    ],
)  # fmt: skip
def test_banks_are_chosen_among_all_patches_up_to_a_limit(
    score: str, most: int, count: int, channels: int,
    tiny_model: Callable[..., MoLEFlow], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(task_statistics, "CANDIDATE_BYTES", most * 2 * channels)
    inspector = tiny_model(score=score, layers=[[0], [1]]).inspector
    inspector.flow.add_task(0)
    statistics = TaskStatistics(inspector, 0, "a", seed=0)
    with torch.no_grad():
        statistics.update(torch.randn(20, 3, 3, 128))
    assert statistics.candidates.shape == (count, channels)
    assert statistics.count == 180
