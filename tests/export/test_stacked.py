from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moleflow_pl import MoLEFlow
from moleflow_pl.export.stacked import StackedChoice, StackedFlow, StackedNovelty
from moleflow_pl.model.inspector import NEAREST
from moleflow_pl.routing.novelty import ordinary_quantile, sample_patches
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.region_router import RegionRouter
from tests.helpers.models import some_tasks

Build = Callable[..., MoLEFlow]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adapter": "film"},
        {"use_task_adapter": False},
        {"use_lora": False},
        {"use_task_bias": False},
    ],
    ids=["all", "film", "no adapter", "no lora", "no bias"],
)
def test_each_image_of_a_mixed_batch_gets_its_own_expert(options: dict, tiny_model: Build) -> None:
    model = some_tasks(tiny_model(**options), 3)
    features = torch.randn(5, 3, 2, model.inspector.extractor.dim)
    # in another order than the tasks', and one task is left out
    stacked, place = StackedFlow(model.inspector.flow, [2, 0]), torch.tensor([0, 1, 1, 0, 1])
    latent, log_det = stacked(features, place)
    halfway = stacked.encode_half(features, place)
    end = stacked.finish(halfway, place)
    for i, task in enumerate([2, 0, 0, 2, 0]):
        own = model.inspector.flow(features[i : i + 1], task)
        torch.testing.assert_close(latent[i : i + 1], own[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_det[i : i + 1], own[1], rtol=1e-4, atol=1e-5)
        middle = model.inspector.flow.encode_half(features[i : i + 1], task)
        torch.testing.assert_close(halfway[i : i + 1], middle, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(end[i : i + 1], own[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_cost_of_an_image_does_not_grow_with_the_number_of_experts(tiny_model: Build) -> None:
    """Every matrix product, adapters included, is of the images' own experts."""
    for adapter in ("whitening", "film"):
        cost = {}
        for count in (1, 6):
            model = some_tasks(tiny_model(adapter=adapter), count)
            stacked = StackedFlow(model.inspector.flow, list(range(count)))
            with FlopCounterMode(display=False) as counter:
                stacked(
                    torch.randn(3, 4, 4, model.inspector.extractor.dim), torch.tensor([0, 0, 0])
                )
            cost[count] = counter.get_total_flops()
        assert cost[6] == cost[1] > 0


@torch.no_grad()
def test_novelty_is_the_smallest_share_among_the_nearest(tiny_model: Build) -> None:
    model = some_tasks(tiny_model(), NEAREST + 2)
    tasks = list(range(NEAREST + 2))
    limits = [5.0, 6.0, float("inf"), float("nan"), 8.0, 9.0]
    features = torch.randn(7, 4, 4, model.inspector.extractor.dim)
    distances = torch.rand(7, NEAREST + 2)
    found = StackedNovelty(model.inspector.novelty_router, tasks, limits)(features, distances)
    patches = sample_patches(features)
    for image in range(7):
        shares = [
            float(
                ordinary_quantile(
                    model.inspector.novelty_router.distances_to(t, patches[image : image + 1])
                )
            )
            / limits[t]
            for t in distances[image].argsort()[:NEAREST].tolist()
            if limits[t] == limits[t]  # a limit that is no number makes nothing known
        ]
        assert found[image].item() == pytest.approx(min(shares), rel=1e-5)


@torch.no_grad()
def test_choice_is_the_routers_also_between_close_products() -> None:
    router = RegionRouter()
    centre = torch.randn(4, 8)
    for task, shift in enumerate((0.0, 0.4, 30.0)):
        prototype = TaskPrototype(8, regions=4)
        prototype.update(centre + shift + (1 + task) * torch.randn(40, 4, 8))
        router.add_prototype(task, prototype)
    assert list(router.close_pairs([2, 0, 1])) == [(1, 2)]
    images = centre + 0.2 + torch.randn(100, 4, 8)
    images[::10] += 30
    distances = router.distances(images)
    found = StackedChoice(router, [2, 0, 1])(images, distances[:, [2, 0, 1]])
    expected = router.choose(distances, images)
    assert torch.equal(torch.tensor([2, 0, 1])[found], expected)
    assert set(expected.tolist()) == {0, 1, 2}
    assert not torch.equal(expected, distances.argmin(1))
