import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.ties import settled, tied_patches
from moleflow_pl.scoring import bank_search
from moleflow_pl.scoring.bank_search import NEIGHBOURS
from tests.helpers.models import TINY_MODEL, some_tasks


@pytest.fixture(scope="module")
def model() -> MoLEFlow:
    """Two tasks with two memory banks each."""
    torch.manual_seed(0)
    options = {"layers": [[0], [1]], "score": "groups"}
    return some_tasks(MoLEFlow(**{**TINY_MODEL, **options}), 2)


def test_patches_with_a_tie_in_any_bank_are_found(
    model: MoLEFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_search, "TIED", 1e-3)
    inspector = model.inspector
    features = torch.randn(2, *inspector.extractor.shape)
    expected = torch.zeros(features.shape[:-1], dtype=torch.bool)
    for bank, vectors in enumerate(inspector.extractor.groups.split(features)):
        stored = inspector.search_banks(1)["groups"][bank][:].double()
        distances = torch.cdist(vectors.double(), stored).square().sort(-1).values
        gap = distances[..., NEIGHBOURS] - distances[..., NEIGHBOURS - 1]
        longest = stored.square().sum(1).amax()
        expected |= gap <= 1e-3 * (vectors.double().square().sum(-1) + longest)
    assert expected.any()
    assert not expected.all()
    assert torch.equal(tied_patches(inspector, features, 1), expected)


def test_answers_at_a_tie_are_those_of_the_model_and_others_stay(model: MoLEFlow) -> None:
    graph = InspectionGraph(model.inspector, map_size=48)
    height, width, _ = model.inspector.extractor.shape
    patches = torch.full((2, height, width), 1.0)
    ties = torch.zeros(2, height, width, dtype=torch.bool)
    ties[0, 0, 0] = True
    expected = {"map": torch.ones(2, 48, 48), "score": torch.ones(2)}
    actual = {"map": torch.full((2, 48, 48), 3.0), "score": torch.tensor([3.0, 3.0])}
    found = settled(actual, expected, patches, ties, graph)
    assert found["map"][0, 0, 0] == 1
    assert found["map"][0, -1, -1] == 3
    assert (found["map"][1] == 3).all()
    assert found["score"].tolist() == [1, 3]


def test_a_tie_far_below_the_score_of_its_image_does_not_excuse_it(model: MoLEFlow) -> None:
    graph = InspectionGraph(model.inspector, map_size=48)
    height, width, _ = model.inspector.extractor.shape
    ties = torch.ones(1, height, width, dtype=torch.bool)
    expected = {"map": torch.ones(1, 48, 48), "score": torch.ones(1)}
    actual = {"map": torch.ones(1, 48, 48), "score": torch.tensor([3.0])}
    patches = torch.full((1, height, width), 0.5)
    assert settled(actual, expected, patches, ties, graph)["score"].tolist() == [3]
