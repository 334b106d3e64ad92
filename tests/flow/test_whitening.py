import torch
from torch import Tensor

from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.flow.whitening import WhiteningAdapter


def fitted(rows: Tensor) -> WhiteningAdapter:
    adapter = WhiteningAdapter(rows.shape[-1]).to(rows.dtype)
    statistics = FeatureStatistics(rows.shape[-1])
    statistics.update(rows)
    adapter.fit(statistics)
    return adapter


def correlated(count: int = 4000, channels: int = 6) -> Tensor:
    mix = 0.3 * torch.randn(channels, channels, dtype=torch.float64) + 2 * torch.eye(channels)
    return torch.randn(count, channels, dtype=torch.float64) @ mix + 5


def test_a_products_own_patches_are_centred_uncorrelated_and_of_unit_variance() -> None:
    rows = correlated()
    white = fitted(rows)(rows).detach()
    assert white.mean(0).abs().max() < 1e-9
    torch.testing.assert_close(white.T.cov(), torch.eye(6).double(), rtol=0, atol=2e-2)


def test_log_det_equals_autograd_jacobian() -> None:
    adapter = fitted(correlated())
    with torch.no_grad():
        adapter.log_gain.uniform_(-1, 1)
        adapter.shift.uniform_(-1, 1)
    point = torch.randn(6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(adapter, point)
    torch.testing.assert_close(adapter.log_det().detach(), torch.linalg.slogdet(jacobian).logabsdet)


def test_inverse_undoes_the_map() -> None:
    rows = correlated()
    adapter = fitted(rows)
    with torch.no_grad():
        adapter.log_gain.uniform_(-1, 1)
        adapter.shift.uniform_(-1, 1)
    torch.testing.assert_close(adapter.inverse(adapter(rows)), rows)


def test_channels_that_never_vary_stay_finite() -> None:
    rows = correlated()
    rows[:, 0] = 1.0
    assert fitted(rows)(rows).isfinite().all()


def test_unfitted_adapter_is_the_identity() -> None:
    rows = torch.randn(3, 4)
    adapter = WhiteningAdapter(4)
    assert torch.equal(adapter(rows), rows)
    assert adapter.log_det().item() == 0


def test_features_that_never_vary_stay_finite() -> None:
    adapter = fitted(torch.ones(100, 4, dtype=torch.float64))
    assert adapter(torch.ones(2, 4, dtype=torch.float64)).isfinite().all()
    assert adapter.log_det().isfinite()
