import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks import literal
from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.data import ImageRecord
from moleflow_pl.data.datasets import FeatureDataset, PatchDraw
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.module import BACKBONE_PREFIX
from tests.conftest import SEED_METHOD, SIZE, TINY_MODEL, wake
from tests.conftest import fit as run_fit

Build = Callable[..., MoLEFlow]


def with_tasks(module: MoLEFlow, count: int = 2) -> MoLEFlow:
    """A model with random experts, and prototypes of random images."""
    module.schedule.extend([[f"p{i}"] for i in range(count)], epochs=1)
    for task in range(count):
        module.begin_task(task)
        images = torch.rand(6, 3, SIZE, SIZE) / (1 + task)
        module.finish_task(task, [{"image": images}])
        module.schedule.tasks[task].epochs_done = 1
    wake(module.flow)
    return module.eval()


def test_inference_equals_the_literal_method(tiny_model: Build) -> None:
    module = tiny_model(router="mahalanobis", **SEED_METHOD)
    module.schedule.extend([["a"], ["b"]], epochs=1)
    twin = literal.LiteralFlow(64, coupling_layers=2, lora_rank=2)
    seen = {}
    for task in range(2):
        module.begin_task(task)
        twin.add_task(task)
        images = torch.rand(80, 3, SIZE, SIZE) * (1 - 0.5 * task)
        module.finish_task(task, [{"image": part} for part in images.split(16)])
        seen[task] = module.extractor(images).mean((1, 2))
    wake(module.flow)
    twin.load_state_dict(module.flow.state_dict())
    images = torch.rand(6, 3, SIZE, SIZE) * torch.tensor([1, 0.5] * 3)[:, None, None, None]
    maps, scores, tasks = literal.infer(module.extractor, twin, seen, images)
    with torch.no_grad():
        inspection = module(images)
    assert inspection.task.tolist() == tasks.tolist() == [0, 1] * 3
    torch.testing.assert_close(inspection.patch_scores, maps, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(inspection.score, scores, rtol=1e-4, atol=1e-3)


def test_training_follows_the_literal_loop(tiny_model: Build) -> None:
    module = tiny_model(optimizer=partial(AdamW, lr=1e-4, weight_decay=1e-4), **SEED_METHOD)
    twin = literal.LiteralFlow(64, coupling_layers=2, lora_rank=2)
    module.schedule.extend([["a"], ["b"]], epochs=3)
    batches = [torch.randn(4, 3, 3, 64) for _ in range(2)]
    positioned = [module.position(features) for features in batches]
    for task in range(2):
        module.begin_task(task)
        twin.add_task(task)
        twin.load_state_dict(module.flow.state_dict())
        optimizer = module.configure_optimizers()
        assert optimizer is not None
        for epoch, rate in enumerate(literal.learning_rates(3, first_task=task == 0)):
            module.schedule.tasks[task].epochs_done = epoch
            for group in optimizer.param_groups:
                group["lr"] = rate
            for i, features in enumerate(batches):
                optimizer.zero_grad()
                batch = {"features": features, "task": torch.full((4,), task)}
                module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
                module.training_step(batch, i).backward()
                torch.nn.utils.clip_grad_norm_(module.flow.parameters_for(task), 0.5)
                optimizer.step()
        module.schedule.tasks[task].epochs_done = 3
        literal.train_task(twin, task, positioned, epochs=3)
        for key, tensor in twin.state_dict().items():
            torch.testing.assert_close(module.flow.state_dict()[key], tensor, rtol=1e-4, atol=1e-6)


def test_median_prototype_is_the_median_over_patches_without_position(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(prototype="median"))
    images = torch.rand(2, 3, SIZE, SIZE)
    medians = module.extractor(images).flatten(1, 2).quantile(0.5, 1, interpolation="lower")
    assert torch.equal(module(images).distances, module.router.distances(medians))


def test_router_is_told_the_mean_over_patches_without_position(tiny_model: Build) -> None:
    module = with_tasks(tiny_model())
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = module.router.distances(module.extractor(images).mean((1, 2)))
    assert torch.equal(module(images).distances, expected)


@pytest.mark.parametrize("score", ["nll", "norm", "bank"])
def test_patch_score_is_the_one_asked_for(tiny_model: Build, score: str) -> None:
    module = with_tasks(tiny_model(score=score, bank_size=7))
    features = torch.randn(2, 3, 3, 64)
    tasks = torch.tensor([1, 0])
    with torch.no_grad():
        found = module.patch_scores(features, tasks)
        latent, log_det = module.flow(module.position(features), tasks)
    squares = latent.square().sum(-1) / 2
    if score == "bank":
        kept = [module.banks[str(task)].latents.float() for task in tasks.tolist()]
        pairs = zip(latent.flatten(1, 2), kept, strict=True)
        nearest = [torch.cdist(rows[None], bank[None])[0].amin(1) for rows, bank in pairs]
        expected = torch.stack(nearest).reshape(2, 3, 3).square()
    else:
        constant = 32 * math.log(2 * math.pi)
        expected = squares if score == "norm" else squares + constant - log_det
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


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
        module = tiny_model(use_position=False, optimizer=optimizer, **options)
        module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        module.schedule.extend([["a"], ["b"]], epochs=1)
        for task, features in enumerate((train.flip(-1), train)):
            batch = {"features": features, "task": torch.full((48,), task)}
            module.begin_task(task)
            module.prepare_task(task, [batch])
            steps = module.configure_optimizers()
            assert steps is not None
            for _ in range(10 if task == 0 else 100):
                steps.zero_grad()
                module.training_step(batch, 0).backward()
                steps.step()
            module.schedule.tasks[task].epochs_done = 1
        with torch.no_grad():
            scores = [module.patch_scores(x, 1).amax((1, 2)) for x in (good, bad)]
        return (scores[1][:, None] > scores[0]).float().mean().item()

    assert auroc(**SEED_METHOD) < 0.6
    assert auroc() > 0.85


def test_score_that_needs_a_bank_is_refused_where_none_was_kept(
    learned: tuple[Path, MoLEFlow],
) -> None:
    with pytest.raises(CheckpointError, match="bank_size"):
        MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt", score="bank")


def test_forced_task_is_obeyed_and_no_router_means_the_first(tiny_model: Build) -> None:
    features = torch.randn(3, 3, 3, 64)
    assert with_tasks(tiny_model()).inspect(features, 1).task.tolist() == [1, 1, 1]
    assert with_tasks(tiny_model(router="none")).inspect(features).task.tolist() == [0, 0, 0]


def test_oracle_scores_are_the_routed_ones_where_the_router_is_right(tiny_model: Build) -> None:
    module = with_tasks(tiny_model())
    images = torch.rand(4, 3, SIZE, SIZE)
    for own in (0, 1):
        with torch.no_grad():
            output = module.test_step({"image": images, "task": torch.full((4,), own)}, 0)
            expected = module.inspect(module.extractor(images), own).score
        right = output["routed_task"] == own
        torch.testing.assert_close(output["oracle_score"], expected)
        assert torch.equal(output["routed_score"][right], output["oracle_score"][right])


def test_without_position_the_place_of_a_patch_does_not_matter(tiny_model: Build) -> None:
    features = torch.randn(1, 3, 3, 64)
    turned = features.flip(1)
    for use_position, same in ((False, True), (True, False)):
        module = with_tasks(tiny_model(use_position=use_position))
        with torch.no_grad():
            one = module.inspect(features, 0).patch_scores.flip(1)
            other = module.inspect(turned, 0).patch_scores
        assert torch.allclose(one, other, rtol=1e-4) == same


def test_expert_starts_the_same_whatever_was_learned_before(tiny_model: Build) -> None:
    def fresh(names: list[str]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = tiny_model()
        module.schedule.extend([[name] for name in names], epochs=1)
        for task in range(len(names)):
            module.begin_task(task)
            torch.rand(task + 3)
        block = module.flow.flow[0].subnet.layer1
        return {"A": block.lora_A[str(len(names) - 1)]}

    assert torch.equal(fresh(["a", "x"])["A"], fresh(["a", "b", "c", "x"])["A"])
    assert not torch.equal(fresh(["a", "x"])["A"], fresh(["a", "y"])["A"])


def test_batch_of_another_task_is_refused(tiny_model: Build) -> None:
    module = tiny_model()
    module.schedule.extend([["a"], ["b"]], epochs=1)
    module.begin_task(0)
    batch = {"features": torch.zeros(2, 3, 3, 64), "task": torch.tensor([0, 1])}
    with pytest.raises(RuntimeError, match=r"batch of task \[0, 1\] came while task 0"):
        module.training_step(batch, 0)


def test_drawn_patches_get_the_position_of_their_place(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 1)
    features = torch.randn(2, 3, 5, 64)
    draw = PatchDraw(count=15, wanted=4, seed=0, purpose=("a", 0))
    stored = FeatureDataset(features, [ImageRecord(Path("x"), "a")] * 2, 0)
    stored.draw = draw
    from_store = module._drawn(stored.__getitems__([1, 0]))
    from_fresh = module._drawn({"features": features[[1, 0]], "patches": draw([1, 0])})
    whole = module.position(features)[[1, 0]].flatten(1, 2)
    expected = torch.stack([w[p] for w, p in zip(whole, draw([1, 0]), strict=True)])[:, None]
    assert torch.equal(from_store, expected)
    assert torch.equal(from_fresh, expected)


def test_optimizer_holds_exactly_the_current_experts_parameters(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 1)
    module.schedule.extend([["p0"], ["p1"]], epochs=1)
    optimizer = module.configure_optimizers()
    assert optimizer is not None
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in module.flow.expert_parameters(1)]
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (2e-3, 1e-4)


def test_optimizer_is_the_users_choice(tiny_model: Build) -> None:
    module = tiny_model(optimizer=lambda params: torch.optim.SGD(params, lr=0.3))
    module.schedule.extend([["a"]], epochs=1)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["initial_lr"] == 0.3


def test_expert_of_nothing_is_refused_from_the_second_task_on(tiny_model: Build) -> None:
    module = tiny_model(use_lora=False, use_task_adapter=False, use_task_bias=False)
    module.schedule.extend([["a"], ["b"]], epochs=1)
    module.configure_optimizers()
    module.schedule.tasks[0].epochs_done = 1
    with pytest.raises(ConfigError, match="'b' has nothing to train"):
        module.configure_optimizers()


def test_fit_without_a_scheduler_says_what_is_missing(tiny_model: Build) -> None:
    with pytest.raises(ConfigError, match="add callbacks.TaskSchedulerCallback"):
        tiny_model().configure_optimizers()


def test_reference_is_the_first_tasks_patches_with_position(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 1)
    images = torch.rand(5, 3, SIZE, SIZE)
    module.finish_task(0, [{"image": images[:2]}, {"image": images[2:]}])
    patches = module.position(module.extractor(images)).flatten(0, 2).double()
    torch.testing.assert_close(
        module.flow.reference_mean.double(), patches.mean(0), rtol=1e-5, atol=1e-6
    )
    std = (patches.var(0) + 1e-6).sqrt()
    torch.testing.assert_close(module.flow.reference_std.double(), std, rtol=1e-5, atol=1e-6)
    assert module.schedule.tasks[0].drift == pytest.approx(0, abs=1e-6)


def test_drift_is_in_standard_deviations_of_the_first_task(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 2)
    images = torch.rand(5, 3, SIZE, SIZE) * 0.3
    module.finish_task(1, [{"image": images[:1]}, {"image": images[1:]}])
    mean = module.position(module.extractor(images)).mean((0, 1, 2))
    expected = ((mean - module.flow.reference_mean) / module.flow.reference_std).abs().mean()
    assert module.schedule.tasks[1].drift == pytest.approx(expected.item(), rel=1e-4)


# ---------------------------------------------------------------- checkpoints


def plain_types(value: object) -> None:
    """Fail on anything but tensors, numbers, strings, lists and dicts."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in (str, int), key
            plain_types(item)
    elif isinstance(value, list):
        for item in value:
            plain_types(item)
    else:
        assert value is None or type(value) in (Tensor, str, int, float, bool), type(value)


def test_checkpoint_holds_plain_things_and_no_backbone(learned: tuple[Path, MoLEFlow]) -> None:
    checkpoint = torch.load(learned[0] / "last.ckpt", weights_only=True)
    plain_types({**checkpoint, "state_dict": dict(checkpoint["state_dict"])})
    assert not any(key.startswith(BACKBONE_PREFIX) for key in checkpoint["state_dict"])
    state = checkpoint["moleflow"]
    assert state["backbone"]["backbone"] == "test_vit"
    assert len(state["backbone"]["weights_sha256"]) == 64
    assert [task["products"] for task in state["tasks"]] == [["01"], ["b"]]


def test_model_loads_from_its_checkpoint_alone(learned: tuple[Path, MoLEFlow]) -> None:
    run, module = learned
    loaded = MoLEFlow.load_from_checkpoint(run / "last.ckpt")
    images = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, actual = module.eval()(images), loaded.eval()(images)
    assert loaded.schedule == module.schedule
    assert torch.equal(actual.score, expected.score)
    assert torch.equal(actual.distances, expected.distances)
    assert all(loaded.flow.adapter_of(t).whitening.ne(torch.eye(64)).any() for t in (0, 1))


def test_loading_needs_the_same_backbone_and_structure(learned: tuple[Path, MoLEFlow]) -> None:
    path = learned[0] / "last.ckpt"
    with pytest.raises(CheckpointError, match="another backbone .*layers: file"):
        MoLEFlow.load_from_checkpoint(path, layers=[1])
    with pytest.raises(CheckpointError, match="lora_rank: file 2, model 3"):
        MoLEFlow.load_from_checkpoint(path, lora_rank=3)


def test_a_missing_tensor_is_an_error(learned: tuple[Path, MoLEFlow], tmp_path: Path) -> None:
    checkpoint = torch.load(learned[0] / "last.ckpt", weights_only=True)
    del checkpoint["state_dict"]["flow.flow.module_list.0.w_perm"]
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(RuntimeError, match="w_perm"):
        MoLEFlow.load_from_checkpoint(tmp_path / "x.ckpt")


def test_mixed_precision_changes_no_feature_and_no_score(tiny_model: Build) -> None:
    module = with_tasks(tiny_model())
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = module(images)
        with torch.autocast("cpu", torch.bfloat16):
            actual = module(images)
    assert actual.score.dtype == torch.float32
    assert torch.equal(actual.score, expected.score)
    assert torch.equal(actual.distances, expected.distances)


def test_features_of_the_store_score_as_fresh_ones(tmp_path: Path, data_root: Path) -> None:
    models = [
        run_fit(tmp_path / str(cache), data_root, ["b"], data={"cache_features": cache})
        for cache in (True, False)
    ]
    for key, tensor in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[key], tensor, rtol=1e-4, atol=1e-5)


def test_data_modules_size_follows_the_models(data_root: Path) -> None:
    data = ContinualDataModule(str(data_root), ["b"], image_size=32)
    data.trainer = type("T", (), {"lightning_module": MoLEFlow(**TINY_MODEL)})  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"data.image_size \(32, 32\) is not the model's \(48, 48\)"
    ):
        data.setup("fit")
