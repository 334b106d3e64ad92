import numpy as np
import torch

from benchmarks.literal import RunningMoments
from moleflow_pl.features.statistics import FeatureStatistics


def test_moments_by_batches_equal_numpys_at_once() -> None:
    rows = torch.randn(50, 6, dtype=torch.float64) * 3 + 100
    statistics = FeatureStatistics(6)
    for part in rows.split([1, 20, 9, 20]):
        statistics.update(part)
    np.testing.assert_allclose(statistics.mean, rows.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.numpy().T), rtol=1e-10)


def test_merging_equals_one_stream_whatever_the_order() -> None:
    rows = torch.randn(30, 4)
    parts = []
    for part in rows.split([7, 1, 22]):
        parts.append(FeatureStatistics(4))
        parts[-1].update(part)
    merged = FeatureStatistics(4)
    for part in reversed(parts):
        merged.merge(part)
    assert merged.count == 30
    np.testing.assert_allclose(merged.covariance, np.cov(rows.double().numpy().T), rtol=1e-10)


def test_std_equals_the_literal_row_by_row() -> None:
    rows = torch.randn(40, 5)
    literal = RunningMoments(5)
    literal.update(rows)
    statistics = FeatureStatistics(5)
    statistics.update(rows.reshape(2, 4, 5, 5))
    torch.testing.assert_close(statistics.std, literal.std)


def test_nothing_seen_changes_nothing() -> None:
    statistics = FeatureStatistics(3)
    statistics.merge(FeatureStatistics(3))
    statistics.update(torch.empty(0, 3))
    assert statistics.count == 0
    assert not statistics.covariance.any()


def test_large_offsets_lose_no_digits() -> None:
    rows = torch.randn(100, 2, dtype=torch.float64)
    shifted = FeatureStatistics(2)
    for part in (rows + 1e7).split(10):
        shifted.update(part)
    np.testing.assert_allclose(shifted.covariance, np.cov(rows.numpy().T), rtol=1e-6)
