from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.export.graph import LABELS, ImageGraph, InspectionGraph
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.scoring.functional import anomaly_map
from moleflow_pl.tasks.calibration import Calibration
from tests.helpers.models import SEED_METHOD, images_between, look_right, some_tasks

Build = Callable[..., MoLEFlow]


@pytest.mark.parametrize(
    "options",
    [
        {},
        SEED_METHOD,
        {"score": "bank"},
        {"score": ["norm", "depths", "groups"], "layers": [[0], [1]], "image_size": [48, 112]},
        {"score": "nll"},
    ],
    ids=["default", "seed", "bank", "depths", "nll"],
)
@torch.no_grad()
def test_the_graph_says_what_the_model_says(options: dict, tiny_model: Build) -> None:
    model = some_tasks(tiny_model(**{"image_size": [48, 32], **options}), 3)
    compare(model, images_between(model))


@pytest.mark.parametrize("regions", [(1,), (0, 1, 2)])
@pytest.mark.parametrize("options", [{}, {**SEED_METHOD, "router": "pooled"}, {"score": "bank"}])
@torch.no_grad()
def test_the_graph_keeps_the_regions_of_interest(
    options: dict, regions: tuple[int, ...], tiny_model: Build
) -> None:
    model = look_right(some_tasks(tiny_model(**{"image_size": [48, 64], **options}), 3), *regions)
    compare(model, images_between(model))


def compare(model: MoLEFlow, images: torch.Tensor) -> None:
    """The graph of a model says what the model says of images of two products."""
    expected = model(images)
    assert set(expected.task.tolist()) == {0, 1}
    graph = InspectionGraph(model.inspector, map_size=64)
    anomaly, score, product, distance, novelty = graph(images)
    assert torch.equal(product, expected.task)
    assert torch.equal(distance, expected.distances.min(1).values)
    torch.testing.assert_close(score, expected.score, rtol=1e-5, atol=1e-4)
    judged = DecisionMaker(model.schedule).decide(
        expected, [model.inspector.extractor.image_size] * len(images)
    )
    torch.testing.assert_close(novelty, torch.tensor([one.novelty_ratio for one in judged]))
    wanted = anomaly_map(expected.patch_scores, (64, 64), 0.0)
    torch.testing.assert_close(anomaly, wanted, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_a_graph_of_one_product_leaves_no_choice(tiny_model: Build) -> None:
    model = some_tasks(tiny_model(), 2)
    images = images_between(model)
    _, score, product, distance, novelty = InspectionGraph(model.inspector, [1])(images)
    features = model.inspector.extractor(images)
    own = model.inspector.inspect(features, 1)
    assert product.tolist() == [0] * len(images)
    torch.testing.assert_close(score, own.score, rtol=1e-5, atol=1e-4)
    assert torch.equal(distance, own.distances[:, 1])
    limit = model.schedule.tasks[1].novelty_limit
    torch.testing.assert_close(novelty, own.novelty_distance[:, 1] / limit)


@torch.no_grad()
def test_nothing_is_known_to_a_graph_whose_products_have_no_limit(tiny_model: Build) -> None:
    model = some_tasks(tiny_model(), 2)
    images = images_between(model)
    for task in model.schedule.tasks:
        task.calibration = None
    assert InspectionGraph(model.inspector)(images)[4].isinf().all()
    model.inspector.novelty_router.prototypes.clear()
    assert InspectionGraph(model.inspector)(images)[4].isinf().all()


def test_a_model_without_a_router_sends_all_to_its_first_task(tiny_model: Build) -> None:
    model = some_tasks(tiny_model(router="none"), 2)
    images = images_between(model)
    assert InspectionGraph(model.inspector)(images)[2].tolist() == model(images).task.tolist()


def test_the_graph_leaves_the_model_as_it_was(tiny_model: Build) -> None:
    model = some_tasks(tiny_model(), 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = [p.requires_grad for p in model.parameters()]
    InspectionGraph(model.inspector)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [p.requires_grad for p in model.parameters()] == trained


def test_a_model_that_learned_nothing_has_no_graph(tiny_model: Build) -> None:
    with pytest.raises(ConfigError, match="has learned no product"):
        InspectionGraph(tiny_model().inspector)


def ruled(novelty: float, score: float, limit: float | None) -> str:
    """The decision as the exported file states it."""
    if not novelty <= 1:
        return "unknown_product"
    if limit is None:
        return "no_threshold"
    return "normal" if score <= limit else "anomalous"


@pytest.mark.parametrize("options", [{}, SEED_METHOD, {"score": "bank"}])
@pytest.mark.parametrize("what", ["score", "novelty"])
@torch.no_grad()
def test_a_score_of_nan_is_never_normal(what: str, options: dict, tiny_model: Build) -> None:
    model = some_tasks(tiny_model(**options), 1)
    (task,) = model.schedule.tasks
    task.calibration = Calibration(*[[1e9, 1e9]] * 5)  # all would be normal
    images = images_between(some_tasks(tiny_model(**options), 2))
    sizes = [model.inspector.extractor.image_size] * len(images)
    assert {p.label for p in DecisionMaker(model.schedule).decide(model(images), sizes)} == {
        "normal"
    }
    if what == "score":
        for parameter in model.inspector.flow.parameters_for(0):
            parameter.fill_(torch.nan)
    else:
        model.inspector.novelty_router.prototypes["0"].mean.fill_(torch.nan)
    _, scores, _, _, novelty = InspectionGraph(model.inspector)(images)
    labels = [ruled(n, s, 1e9) for n, s in zip(novelty.tolist(), scores.tolist(), strict=True)]
    assert "normal" not in labels
    decided = DecisionMaker(model.schedule).decide(model(images), sizes)
    assert [one.label for one in decided] == labels


class Given(nn.Module):
    """A graph that says of each image what its pixels are."""

    extractor = SimpleNamespace(image_size=(1, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        score, product, novelty = images[:, 0, 0].float().unbind(1)
        score = torch.where(score == 255, torch.nan, score)
        novelty = torch.where(novelty == 255, torch.nan, novelty)
        return images, score, product.long(), score, novelty


@pytest.mark.parametrize(
    ("score", "product", "novelty", "label"),
    [
        (5, 0, 1, "normal"), (6, 0, 1, "anomalous"), (9, 1, 1, "normal"),
        (5, 0, 2, "unknown_product"), (5, 2, 1, "no_threshold"), (5, 2, 2, "unknown_product"),
        (255, 0, 1, "anomalous"), (5, 0, 255, "unknown_product"),
    ],
)  # fmt: skip
def test_a_label_is_by_the_threshold_of_the_product(
    score: int, product: int, novelty: int, label: str
) -> None:
    graph: Any = Given()
    image = torch.tensor([score, product, novelty], dtype=torch.uint8)
    whole = ImageGraph(graph, [5.0, 9.0, float("nan")])
    found = whole(image.expand(3, -1).T.reshape(1, 1, 3, 3).contiguous())
    assert LABELS[found[-1].item()] == label
    assert ruled(float("nan") if novelty == 255 else novelty, score, [5, 9, None][product]) == label


def test_a_threshold_is_not_rounded() -> None:
    graph: Any = Given()
    image = torch.tensor([5, 0, 1], dtype=torch.uint8)[:, None].expand(-1, 3)[None, None]
    labels = [ImageGraph(graph, [5 + by])(image)[-1].item() for by in (-1e-12, 0.0, 1e-12)]
    assert [LABELS[label] for label in labels] == ["anomalous", "normal", "normal"]
