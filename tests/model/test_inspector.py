import copy
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import literal
from moleflow_pl import MoLEFlow
from moleflow_pl.model.inspector import CACHED_BANKS
from moleflow_pl.routing.router import NEAREST
from moleflow_pl.scoring.patch_scores import PATCH_SCORES
from tests.helpers.models import (
    SEED_METHOD,
    images_between,
    look_right,
    some_tasks,
    wake,
    with_tasks,
)
from tests.helpers.oracles import literal_distances
from tests.helpers.products import SIZE

Build = Callable[..., MoLEFlow]
BANK_MB = 7.5 * 68e-6  # seven vectors of 64 channels


def test_inference_equals_the_literal_method(tiny_model: Build) -> None:
    module = tiny_model(router="mahalanobis", **SEED_METHOD)
    module.schedule.extend([["a"], ["b"]], epochs=1)
    twin = literal.LiteralFlow(64, coupling_layers=2, lora_rank=2)
    seen = {}
    for task in range(2):
        module.learner.begin_task(task)
        twin.add_task(task)
        images = torch.rand(80, 3, SIZE, SIZE) * (1 - 0.5 * task)
        module.learner.finish_task(task, [{"image": part} for part in images.split(16)])
        seen[task] = module.inspector.extractor(images).mean((1, 2))
    wake(module.inspector.flow)
    twin.load_state_dict(module.inspector.flow.state_dict())
    images = torch.rand(6, 3, SIZE, SIZE) * torch.tensor([1, 0.5] * 3)[:, None, None, None]
    maps, scores, tasks = literal.infer(module.inspector.extractor, twin, seen, images)
    with torch.no_grad():
        found = module(images)
    assert found.task.tolist() == tasks.tolist() == [0, 1] * 3
    torch.testing.assert_close(found.patch_scores, maps, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.score, scores, rtol=1e-4, atol=1e-3)


def test_median_prototype_is_the_median_over_patches_without_position(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(prototype="median"))
    images = torch.rand(2, 3, SIZE, SIZE)
    medians = (
        module.inspector.extractor(images).flatten(1, 2).quantile(0.5, 1, interpolation="lower")
    )
    assert torch.equal(module(images).distances, module.inspector.router.distances(medians))


def test_router_gets_the_mean_over_patches_without_position(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(prototype="mean"))
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = module.inspector.router.distances(module.inspector.extractor(images).mean((1, 2)))
    assert torch.equal(module(images).distances, expected)


@pytest.mark.parametrize("score", list(PATCH_SCORES))
def test_patch_score_is_the_one_asked_for(tiny_model: Build, score: str) -> None:
    module = with_tasks(tiny_model(score=score, bank_mb=BANK_MB))
    features = torch.randn(2, 1, 9, 64)
    tasks = torch.tensor([1, 0])
    banks = module.inspector.score.with_banks
    with torch.no_grad():
        found = module.inspector.patch_scores(features, tasks)
        latent, log_det = module.inspector.flow(module.inspector.position(features), tasks)
        encode_half = module.inspector.flow.encode_half(module.inspector.position(features), tasks)
    squares = latent.square().sum(-1)
    if banks:
        memories = [module.inspector.memory(task)[score] for task in tasks.tolist()]
        kept = [memory[0].vectors for memory in memories]
        assert [len(memory) for memory in memories] == [1, 1]
        if score == "groups":
            latent = torch.nn.functional.normalize(features, dim=-1)
        if score == "depths":
            finish = [
                module.inspector.flow.finish(k, task) for k, task in zip(kept, [1, 0], strict=True)
            ]
            kept = [torch.cat(pair, 1) for pair in zip(kept, finish, strict=True)]
            latent = torch.cat((encode_half, latent), -1)
        pairs = zip(latent.flatten(1, 2), kept, strict=True)
        distances = [literal_distances(rows.double().numpy(), bank.numpy()) for rows, bank in pairs]
        expected = torch.tensor(np.array(distances), dtype=torch.float32).reshape(2, 1, 9)
    else:
        constant = 32 * math.log(2 * math.pi)
        expected = squares.sqrt() if score == "norm" else squares / 2 + constant - log_det
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


@torch.no_grad()
def test_another_score_does_not_find_what_the_last_one_compared(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(score="depths", bank_mb=BANK_MB))
    assert module.inspector.search_banks(0)["depths"][0][:].shape == (7, 128)
    module.inspector.banks["0"]["bank"] = module.inspector.banks["0"]["depths"]
    module.inspector.set_patch_scores([PATCH_SCORES["bank"]()])
    assert module.inspector.search_banks(0)["bank"][0][:].shape == (7, 64)


@torch.no_grad()
def test_expanded_banks_of_many_products_stay_cached(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(score="depths", bank_mb=BANK_MB), CACHED_BANKS)
    first = [module.inspector.search_banks(task) for task in range(CACHED_BANKS)]
    assert all(module.inspector.search_banks(task) is one for task, one in enumerate(first))


@torch.no_grad()
def test_an_outlier_beyond_half_precision_leaves_a_bank_finite(tiny_model: Build) -> None:
    inspector = with_tasks(tiny_model(score="depths", bank_mb=BANK_MB)).inspector
    inspector.flow.finish = lambda vectors, task: 1e6 * vectors.sign()
    derived = inspector.search_banks(0)["depths"][0].derived
    assert derived.dtype == torch.half
    assert derived.abs().max() == torch.finfo(torch.half).max


@torch.no_grad()
def test_expanded_bank_follows_the_bank_and_the_expert(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(score="depths", bank_mb=BANK_MB))
    inspector = module.inspector
    first = inspector.search_banks(0)["depths"][0]
    assert inspector.search_banks(0)["depths"][0] is first
    inspector.flow.expert_parameters(0)[-1].add_(1)
    second = inspector.search_banks(0)["depths"][0]
    assert torch.equal(second[:][:, :64], first[:][:, :64])
    assert not torch.equal(second[:][:, 64:], first[:][:, 64:])
    before = second[:][:, :64]
    inspector.memory(0)["depths"][0].fill(torch.randn(7, 64), torch.Generator().manual_seed(1))
    assert not torch.equal(inspector.search_banks(0)["depths"][0][:][:, :64], before)


@pytest.mark.parametrize("score", list(PATCH_SCORES))
def test_adding_a_task_leaves_earlier_patch_scores_bit_equal(tiny_model: Build, score: str) -> None:
    module = with_tasks(tiny_model(score=score, bank_mb=BANK_MB))
    features = torch.randn(3, 2, 9, 64)
    with torch.no_grad():
        before = [module.inspector.patch_scores(features, task) for task in range(2)]
        module.schedule.extend([["p0"], ["p1"], ["p2"]], epochs=1)
        module.learner.begin_task(2)
        module.learner.finish_task(2, [{"image": torch.rand(8, 3, SIZE, SIZE)}])
        after = [module.inspector.patch_scores(features, task) for task in range(2)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("score", ["bank", "depths"])
def test_scores_of_no_image_are_none_and_an_unknown_task_leaves_no_bank(
    tiny_model: Build, score: str
) -> None:
    module = with_tasks(tiny_model(score=score, bank_mb=BANK_MB))
    with torch.no_grad():
        assert module.inspector.patch_scores(torch.zeros(0, 2, 9, 64), 0).shape == (0, 2, 9)
        with pytest.raises(KeyError):
            module.inspector.patch_scores(torch.zeros(1, 2, 9, 64), 9)
    assert "9" not in module.inspector.banks


def test_forced_task_is_obeyed_and_no_router_means_the_first(tiny_model: Build) -> None:
    features = torch.randn(3, 3, 3, 64)
    assert with_tasks(tiny_model()).inspector.inspect(features, 1).task.tolist() == [1, 1, 1]
    assert with_tasks(tiny_model(router="none")).inspector.inspect(features).task.tolist() == [
        0,
        0,
        0,
    ]


def test_without_position_the_place_of_a_patch_does_not_matter(tiny_model: Build) -> None:
    features = torch.randn(1, 3, 3, 64)
    turned = features.flip(1)
    for use_position, same in ((False, True), (True, False)):
        module = with_tasks(tiny_model(use_position=use_position))
        with torch.no_grad():
            one = module.inspector.inspect(features, 0).patch_scores.flip(1)
            other = module.inspector.inspect(turned, 0).patch_scores
        assert torch.allclose(one, other, rtol=1e-4) == same


@pytest.mark.parametrize("score", list(PATCH_SCORES))
def test_mixed_precision_changes_no_feature_and_no_score(tiny_model: Build, score: str) -> None:
    module = with_tasks(tiny_model(score=score, bank_mb=BANK_MB), 2 * NEAREST)
    fresh = copy.deepcopy(module)  # what it makes once, it makes in mixed precision
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = module(images)
        with torch.autocast("cpu", torch.bfloat16):
            actual = fresh(images)
    assert torch.equal(actual.patch_scores, expected.patch_scores)
    assert actual.score.dtype == torch.float32
    assert torch.equal(actual.score, expected.score)
    assert torch.equal(actual.distances, expected.distances)


@torch.no_grad()
def test_parts_of_a_score_are_added_each_by_its_scale_of_the_images_task(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(score=["norm", "depths", "groups"], layers=[[0], [1]]))
    features, tasks = torch.randn(3, 2, 9, 128), torch.tensor([1, 0, 1])
    inspector = module.inspector
    expected = torch.zeros(3, 2, 9)
    for name in ("norm", "depths", "groups"):
        inspector.set_patch_scores([PATCH_SCORES[name]()])
        scales = torch.stack([inspector.memory(task)[name].scale for task in (1, 0, 1)])
        expected += inspector.patch_scores(features, tasks) / scales[:, None, None]
    inspector.set_patch_scores([PATCH_SCORES[name]() for name in ("norm", "depths", "groups")])
    torch.testing.assert_close(inspector.patch_scores(features, tasks), expected)
    alone = inspector.patch_scores(features[:1], 1)
    torch.testing.assert_close(alone, expected[:1])


@torch.no_grad()
def test_flow_and_router_see_the_mean_of_the_first_groups(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(layers=[[0], [1], [0, 1]], score="norm", use_position=False))
    features = torch.randn(2, 3, 3, 192)
    mean = (features[..., :64] + features[..., 64:128]) / 2
    latent, _ = module.inspector.flow(mean, 0)
    found = module.inspector.inspect(features, 0)
    torch.testing.assert_close(found.patch_scores, torch.linalg.vector_norm(latent, dim=-1))
    distances = module.inspector.router.distances(module.inspector.image_features(mean))
    assert torch.equal(found.distances, distances)


@pytest.mark.parametrize("adapter", ["film", "whitening"])
@pytest.mark.parametrize("score", list(PATCH_SCORES))
def test_a_model_can_be_pickled_whatever_its_parts(
    score: str, adapter: str, tiny_model: Build
) -> None:
    inspector = with_tasks(tiny_model(score=score, adapter=adapter)).inspector
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = inspector(images).score
        assert torch.equal(pickle.loads(pickle.dumps(inspector))(images).score, expected)


@torch.no_grad()
def test_images_of_a_mixed_batch_are_scored_by_the_regions_of_their_own_tasks(
    tiny_model: Build,
) -> None:
    model = look_right(some_tasks(tiny_model(), 3), 1)
    images = images_between(model)
    together = model(images)
    assert set(together.task.tolist()) == {0, 1}
    for i, image in enumerate(images):
        own = int(together.task[i])
        alone = model.inspector.inspect(model.inspector.extractor(image[None]), own)
        torch.testing.assert_close(together.score[i], alone.score[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.distances[i], alone.distances[0], rtol=1e-5, atol=1e-5)
        outside = together.patch_scores[i][:, 0]
        assert bool(outside.any()) == (own == 0)
