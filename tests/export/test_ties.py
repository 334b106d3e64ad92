import pytest
import torch
from torch import Tensor

from moleflow_pl import MoLEFlow
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.ties import Ties, settled
from moleflow_pl.scoring import bank_search
from moleflow_pl.scoring.bank_search import NEIGHBOURS
from tests.helpers.models import TINY_MODEL, look_right, some_tasks

SIZE = 48  # of a map


@pytest.fixture(scope="module")
def model() -> MoLEFlow:
    """Two tasks with two memory banks each; one has a region of interest."""
    torch.manual_seed(0)
    options = {"layers": [[0], [1]], "score": "groups"}
    built = some_tasks(MoLEFlow(**{**TINY_MODEL, **options}), 2)
    look_right(built, 1)
    return built


def ties_of(model: MoLEFlow) -> Ties:
    """Of two images of noise."""
    torch.manual_seed(1)
    features = torch.randn(2, *model.inspector.extractor.shape)
    return Ties(model.inspector, features, InspectionGraph(model.inspector, map_size=SIZE))


@pytest.mark.parametrize("task", [0, 1])
def test_patches_jump_where_any_bank_has_a_tie(
    task: int, model: MoLEFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_search, "TIED", 0.01)
    ties, inspector = ties_of(model), model.inspector
    expected = torch.zeros(ties.features.shape[:-1], dtype=torch.bool)
    for bank, vectors in enumerate(inspector.extractor.groups.split(ties.features)):
        stored = inspector.search_banks(task)["groups"][bank][:].double()
        squared, places = torch.cdist(vectors.double(), stored).square().sort(-1)
        gap = squared[..., NEIGHBOURS] - squared[..., NEIGHBOURS - 1]
        last = stored[places[..., NEIGHBOURS - 1]].square().sum(-1)
        expected |= gap <= 0.01 * (vectors.double().square().sum(-1) + last)
    assert expected.any()
    assert not expected.all()
    assert torch.equal(ties.jumps(task) > 0, expected)


def settle(difference: Tensor, model: MoLEFlow) -> tuple[Tensor, Tensor]:
    """What is left of a difference of maps and scores where one patch of an image may jump by 1."""
    ties = ties_of(model)
    jumps = torch.zeros(ties.features.shape[:-1])
    jumps[0, 0, 0] = 1.0
    ties.jumps = lambda index: jumps  # type: ignore[assignment]
    expected = {
        "map": torch.ones(2, SIZE, SIZE), "score": torch.ones(2), "product": torch.tensor([0, 1])
    }  # fmt: skip
    actual = expected | {"map": 1 + difference.reshape(-1, 1, 1) * torch.ones(2, SIZE, SIZE)}
    actual["score"] = 1 + difference
    found = ties.settle(actual, expected, range(2))
    return found["map"] - 1, found["score"] - 1


def test_ties_explain_a_difference_near_their_patch_alone(model: MoLEFlow) -> None:
    maps, scores = settle(torch.tensor([0.25, 0.25]), model)
    assert maps[0, 0, 0] == 0
    assert maps[0, -1, -1] == 0.25
    assert (maps[1] == 0.25).all()
    assert scores.tolist() == [0, 0.25]


def test_ties_explain_no_more_than_their_jump(model: MoLEFlow) -> None:
    maps, scores = settle(torch.tensor([-3.0, float("nan")]), model)
    assert maps[0, 0, 0] == pytest.approx(-2, abs=0.1)
    assert scores[0] == -2
    assert scores[1].isnan()
    assert maps[1].isnan().all()


def test_infinite_values_that_agree_still_do() -> None:
    value = torch.tensor([torch.inf])
    assert torch.equal(settled(value, value, torch.ones(1)), value)
