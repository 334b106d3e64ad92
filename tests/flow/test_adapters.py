import pytest
import torch

from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.flow.adapters import ADAPTERS, InputAdapter
from tests.helpers.models import wake

DIM = 6
REFERENCE = (torch.arange(1.0, DIM + 1), torch.full((DIM,), 2.0))


def adapters_of(name: str) -> list[InputAdapter]:
    """The adapters of three tasks, the first without a reference, all off their start."""
    adapters = [ADAPTERS[name].build(DIM, reference) for reference in (None, REFERENCE, REFERENCE)]
    for shift, adapter in enumerate(adapters):
        statistics = FeatureStatistics(DIM)
        statistics.update(torch.randn(100, DIM) * (1 + shift) + shift)
        adapter.fit(statistics)
        wake(adapter)
    return adapters


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_stacked_adapters_map_each_image_as_that_of_its_task(name: str) -> None:
    adapters = adapters_of(name)
    features, index = torch.randn(5, 7, DIM), torch.tensor([2, 0, 1, 1, 0])
    found = ADAPTERS[name].stacked(adapters)(features, index)
    for image, task in enumerate(index.tolist()):
        expected = adapters[task](features[image : image + 1, None])[:, 0].detach()
        torch.testing.assert_close(found[image : image + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_log_det_is_one_number_and_the_shape_stays(name: str) -> None:
    adapter = adapters_of(name)[0]
    features = torch.randn(2, 3, 4, DIM)
    assert adapter.log_det().shape == ()
    assert adapter(features).shape == adapter.inverse(features).shape == features.shape


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_statistics_change_an_adapter_only_where_it_asks_for_them(name: str) -> None:
    adapter = ADAPTERS[name].build(DIM, REFERENCE)
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    statistics = FeatureStatistics(DIM)
    statistics.update(3 * torch.randn(50, DIM) + 1)
    adapter.fit(statistics)
    same = all(torch.equal(before[key], value) for key, value in adapter.state_dict().items())
    assert same != adapter.needs_statistics


def test_without_a_reference_most_of_the_input_of_film_passes() -> None:
    features = torch.randn(1, 2, 2, DIM)
    first = ADAPTERS["film"].build(DIM, None)
    later = ADAPTERS["film"].build(DIM, REFERENCE)
    assert (first(features) - 0.9 * features).norm() < 0.2 * features.norm()
    assert torch.equal(later.state_dict()["reference_mean"], REFERENCE[0])
