from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.optim import AdamW

from moleflow_pl import MoLEFlow
from moleflow_pl.data.datasets import FeatureDataset
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.patch_sampler import PatchDraw, draw_of
from moleflow_pl.model.learner import damaged_distances
from tests.helpers.models import SEED_METHOD, TINY_MODEL, some_tasks, with_tasks
from tests.helpers.processes import join
from tests.helpers.products import SIZE

Build = Callable[..., MoLEFlow]


def test_long_training_of_a_later_task_cannot_hide_its_defects(tiny_model: Build) -> None:
    """The seed's adapter earns likelihood by contracting all patches; a counted one cannot."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        spread = torch.linspace(0.2, 2, 64)
        return torch.randn(count, 3, 3, 64, generator=generator) * spread

    train, good, bad = images(48), images(24), images(24)
    bad[:, 1, 1] += 0.6 * torch.randn(24, 64, generator=generator)

    def auroc(**options: object) -> float:
        torch.manual_seed(0)
        optimizer = partial(AdamW, lr=5e-3)
        module = tiny_model(
            **{"use_position": False, "score": "norm", **options, "optimizer": optimizer}
        )
        module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        module.schedule.extend([["a"], ["b"]], epochs=1)
        for task, features in enumerate((train.flip(-1), train)):
            batch = {"features": features, "task": torch.full((48,), task)}
            module.learner.begin_task(task)
            module.learner.prepare_task(task, [batch])
            steps = module.configure_optimizers()
            assert steps is not None
            for _ in range(10 if task == 0 else 100):
                steps.zero_grad()
                module.training_step(batch, 0).backward()
                steps.step()
            module.schedule.tasks[task].epochs_done = 1
        with torch.no_grad():
            scores = [module.inspector.patch_scores(x, 1).amax((1, 2)) for x in (good, bad)]
        return (scores[1][:, None] > scores[0]).float().mean().item()

    assert auroc(**SEED_METHOD) < 0.6
    assert auroc(**SEED_METHOD | {"adapter": "whitening"}) > 0.85
    assert auroc() > 0.85
    assert auroc(adapter="film") < 0.6


def test_expert_starts_the_same_whatever_was_learned_before(tiny_model: Build) -> None:
    def fresh(names: list[str]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = tiny_model()
        module.schedule.extend([[name] for name in names], epochs=1)
        for task in range(len(names)):
            module.learner.begin_task(task)
            torch.rand(task + 3)
        block = module.inspector.flow.flow[0].subnet.layer1
        return {"A": block.lora_A[str(len(names) - 1)]}

    assert torch.equal(fresh(["a", "x"])["A"], fresh(["a", "b", "c", "x"])["A"])
    assert not torch.equal(fresh(["a", "x"])["A"], fresh(["a", "y"])["A"])


def test_drawn_patches_get_the_position_of_their_place(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 1)
    features = torch.randn(2, 3, 5, 64)
    draw = PatchDraw(grid=(3, 5), wanted=4, seed=0, purpose=("a", 0))
    stored = FeatureDataset(features, [ImageRecord(Path("x"), "a")] * 2, 0)
    stored.draw = draw
    from_store = module.learner._step_features(stored.__getitems__([1, 0]), 0)
    from_fresh = module.learner._step_features(
        {"features": features[[1, 0]], "patches": draw([1, 0])}, 0
    )
    whole = module.inspector.position(features)[[1, 0]].flatten(1, 2)
    expected = torch.stack([w[p] for w, p in zip(whole, draw([1, 0]), strict=True)])[:, None]
    assert torch.equal(from_store, expected)
    assert torch.equal(from_fresh, expected)


def test_reference_is_the_first_tasks_patches_with_position(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 1)
    images = torch.rand(5, 3, SIZE, SIZE)
    module.learner.finish_task(0, [{"image": images[:2]}, {"image": images[2:]}])
    patches = module.inspector.position(module.inspector.extractor(images)).flatten(0, 2).double()
    torch.testing.assert_close(
        module.inspector.flow.reference_mean.double(), patches.mean(0), rtol=1e-5, atol=1e-6
    )
    std = (patches.var(0) + 1e-6).sqrt()
    torch.testing.assert_close(
        module.inspector.flow.reference_std.double(), std, rtol=1e-5, atol=1e-6
    )
    assert module.schedule.tasks[0].drift == pytest.approx(0, abs=1e-6)


def test_drift_is_in_standard_deviations_of_the_first_task(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 2)
    images = torch.rand(5, 3, SIZE, SIZE) * 0.3
    module.learner.finish_task(1, [{"image": images[:1]}, {"image": images[1:]}])
    mean = module.inspector.position(module.inspector.extractor(images)).mean((0, 1, 2))
    expected = (
        ((mean - module.inspector.flow.reference_mean) / module.inspector.flow.reference_std)
        .abs()
        .mean()
    )
    assert module.schedule.tasks[1].drift == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_what_lies_outside_a_region_leaves_no_trace(fraction: float, tiny_model: Build) -> None:
    """Not in the loss, the adapter, the bank, the prototypes, the scales, or the calibration."""
    inside = torch.zeros(4, 5, dtype=torch.bool)
    inside[1:3, 1:4] = True

    def learned(outside: float) -> tuple[dict[str, Tensor], dict, Tensor]:
        torch.manual_seed(0)
        module = tiny_model(image_size=[64, 80], score=["depths", "groups"], bank_mb=0.01)
        module.schedule.extend([["a"]], epochs=1)
        features = torch.randn(6, 4, 5, 64)
        features[:, ~inside] *= outside
        records = [ImageRecord(Path(), "a")] * 6
        dataset = FeatureDataset(features, records, task=0)
        dataset.draw = draw_of(inside, fraction, 0, ("a", 0)) if fraction < 1 else None
        batch, whole = dataset.__getitems__([0, 1, 2]), [{"features": features}]
        module.learner.begin_task(0)
        module.inspector.interest.set(0, inside)
        module.learner.prepare_task(0, whole)
        loss, nll = module.learner.loss(batch, 0)
        module.learner.finish_task(0, whole)
        module.learner.calibrate_task(0, whole, 0.1)
        found = module.inspector.inspect(features, 0)
        assert torch.equal(found.patch_scores[:, ~inside], torch.zeros(6, 14))
        state = {k: v for k, v in module.state_dict().items() if "backbone" not in k}
        numbers = torch.cat([loss[None], nll.flatten(), found.score, found.distances[:, 0]])
        calibration = module.schedule.state()[0]["calibration"]
        return state, calibration, torch.cat([numbers, found.novelty_distance[:, 0]])

    (state, calibration, numbers), other = learned(1.0), learned(1000.0)
    assert calibration == other[1]
    assert torch.equal(numbers, other[2])
    for key, tensor in state.items():
        assert torch.equal(tensor, other[0][key]), key


def test_half_of_a_region_is_destroyed_where_novelty_has_its_limit(tiny_model: Build) -> None:
    module = some_tasks(tiny_model(image_size=[64, 64]), 1)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    changed = []
    module.inspector.extractor.register_forward_hook(lambda _, given, __: changed.append(given[0]))
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[:2, 1:3] = True
    module.inspector.interest.set(0, inside)
    damaged_distances(module.inspector, 0, images)
    destroyed = (changed[1] != images).any(1)
    assert not destroyed[:, 32:].any()
    assert not destroyed[..., :16].any()
    assert destroyed[0, :16, 16:48].float().mean() > 0.9  # its upper half, and the left one
    assert not destroyed[0, 16:].any()
    assert destroyed[1, :32, 16:32].float().mean() > 0.9


RANKS = 2
FEATURES = torch.randn(7, 3, 5, 64, generator=torch.Generator().manual_seed(0))


def learned_of(features: Tensor) -> dict[str, Tensor]:
    """What two tasks leave behind in a model that is shown features in batches of 2."""
    torch.manual_seed(0)
    module = MoLEFlow(**{**TINY_MODEL, "score": ["depths", "groups"], "bank_mb": 20 * 136e-6})
    module.schedule.extend([["a"], ["b"]], epochs=1)
    for task in (0, 1):
        batches = [{"features": part * (1 + task)} for part in features.split(2)]
        module.learner.begin_task(task)
        module.learner.prepare_task(task, batches)
        module.learner.finish_task(task, batches)
    state = {k: v for k, v in module.state_dict().items() if "backbone" not in k}
    drifts = [task.drift for task in module.schedule.tasks]
    return {**state, "drift": torch.tensor(drifts, dtype=torch.float64)}


def learn_share(rank: int, folder: Path) -> None:
    join(rank, RANKS, folder)
    torch.save(learned_of(FEATURES[rank::RANKS]), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow  # `tests/stories/test_devices.py` has two ranks with unequal shares too
def test_ranks_with_unequal_shares_leave_behind_what_one_process_does(tmp_path: Path) -> None:
    mp.spawn(learn_share, (tmp_path,), nprocs=RANKS)
    expected = learned_of(FEATURES)
    first, *others = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(RANKS))
    assert list(first) == list(expected)
    for key, tensor in expected.items():
        assert all(torch.equal(other[key], first[key]) for other in others), key
        # vectors are kept as 8-bit integers
        close = {"rtol": 0, "atol": 1} if "values" in key else {}
        torch.testing.assert_close(first[key], tensor, msg=key, **close)
    assert {k.split(".")[1] for k in expected if "." in k} >= {"banks", "router", "novelty_router"}


def test_prototype_of_regions_equals_numpys(tiny_model: Build) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 8, 8, 64, generator=generator)
    module = tiny_model()
    module.schedule.extend([["a"]], epochs=1)
    module.learner.begin_task(0)
    module.learner.finish_task(0, [{"features": part} for part in features.split(8)])
    found = module.inspector.router.prototypes["0"]
    unit = features.double().numpy()
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    regions = unit.reshape(20, 4, 2, 4, 2, 64).mean((2, 4)).reshape(20, 16, 64)
    np.testing.assert_allclose(found.mean, regions.mean(0), atol=1e-6)
    expected = np.mean([np.cov(regions[:, r].T) for r in range(16)], 0)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-4, atol=1e-6)
