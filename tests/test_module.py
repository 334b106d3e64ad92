from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks import literal
from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.errors import CheckpointError, ConfigError, DataError
from tests.helpers.checkpoints import save_sealed
from tests.helpers.models import SEED_METHOD, TINY_MODEL, fit, with_tasks
from tests.helpers.products import SIZE

Build = Callable[..., MoLEFlow]


def test_training_follows_the_literal_loop(tiny_model: Build) -> None:
    module = tiny_model(optimizer=partial(AdamW, lr=1e-4, weight_decay=1e-4), **SEED_METHOD)
    twin = literal.LiteralFlow(64, coupling_layers=2, lora_rank=2)
    module.schedule.extend([["a"], ["b"]], epochs=3)
    batches = [torch.randn(4, 3, 3, 64) for _ in range(2)]
    positioned = [module.inspector.position(features) for features in batches]
    for task in range(2):
        module.learner.begin_task(task)
        twin.add_task(task)
        twin.load_state_dict(module.inspector.flow.state_dict())
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
                torch.nn.utils.clip_grad_norm_(module.inspector.flow.parameters_for(task), 0.5)
                optimizer.step()
        module.schedule.tasks[task].epochs_done = 3
        literal.train_task(twin, task, positioned, epochs=3)
        for key, tensor in twin.state_dict().items():
            torch.testing.assert_close(
                module.inspector.flow.state_dict()[key], tensor, rtol=1e-4, atol=1e-6
            )


def test_score_that_needs_a_bank_is_refused_without_one(
    learned: tuple[Path, MoLEFlow],
) -> None:
    with pytest.raises(CheckpointError, match="score"):
        MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt", score="bank")


def test_oracle_scores_are_the_routed_ones_where_the_router_is_right(tiny_model: Build) -> None:
    module = with_tasks(tiny_model())
    images = torch.rand(4, 3, SIZE, SIZE)
    for own in (0, 1):
        with torch.no_grad():
            output = module.test_step({"image": images, "task": torch.full((4,), own)}, 0)
            expected = module.inspector.inspect(module.inspector.extractor(images), own).score
        right = output["routed_task"] == own
        torch.testing.assert_close(output["oracle_score"], expected)
        assert torch.equal(output["routed_score"][right], output["oracle_score"][right])


def test_batch_of_another_task_is_refused(tiny_model: Build) -> None:
    module = tiny_model()
    module.schedule.extend([["a"], ["b"]], epochs=1)
    module.learner.begin_task(0)
    batch = {"features": torch.zeros(2, 3, 3, 64), "task": torch.tensor([0, 1])}
    with pytest.raises(RuntimeError, match=r"batch of task \[0, 1\] arrived while task 0"):
        module.training_step(batch, 0)


def test_optimizer_holds_exactly_the_current_experts_parameters(tiny_model: Build) -> None:
    module = with_tasks(tiny_model(), 1)
    module.schedule.extend([["p0"], ["p1"]], epochs=1)
    optimizer = module.configure_optimizers()
    assert optimizer is not None
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in module.inspector.flow.expert_parameters(1)]
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
    with pytest.raises(ConfigError, match="add moleflow_pl.callbacks.TaskSchedulerCallback"):
        tiny_model().configure_optimizers()


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
    assert not any("backbone" in key for key in checkpoint["state_dict"])
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
    assert all(
        loaded.inspector.flow.adapter_of(t).whitening.ne(torch.eye(64)).any() for t in (0, 1)
    )


def test_loading_needs_the_same_backbone_and_structure(learned: tuple[Path, MoLEFlow]) -> None:
    path = learned[0] / "last.ckpt"
    with pytest.raises(CheckpointError, match="another backbone .*layers: file"):
        MoLEFlow.load_from_checkpoint(path, layers=[1])
    with pytest.raises(CheckpointError, match="lora_rank: file 2, model 3"):
        MoLEFlow.load_from_checkpoint(path, lora_rank=3)
    for argument in ({"score": "nll"}, {"image_score": "quantile"}, {"image_quantile": 0.9}):
        (name,) = argument
        with pytest.raises(CheckpointError, match=f"{name}: file .*thresholds are valid only"):
            MoLEFlow.load_from_checkpoint(path, **argument)


def test_a_missing_tensor_is_an_error(learned: tuple[Path, MoLEFlow], tmp_path: Path) -> None:
    checkpoint = torch.load(learned[0] / "last.ckpt", weights_only=True)
    del checkpoint["state_dict"]["inspector.flow.flow.module_list.0.w_perm"]
    save_sealed(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="w_perm: file None"):
        MoLEFlow.load_from_checkpoint(tmp_path / "x.ckpt")


def test_features_of_the_store_score_as_fresh_ones(tmp_path: Path, data_root: Path) -> None:
    # AdamW would divide a gradient by its own size: where it is nearly zero, rounding of the
    # features moves a weight by a part of the learning rate
    plain = {"optimizer": partial(torch.optim.SGD, lr=0.1)}
    models = [
        fit(tmp_path / str(cache), data_root, ["b"], data={"cache_features": cache}, model=plain)
        for cache in (True, False)
    ]
    for key, tensor in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[key], tensor, rtol=1e-4, atol=1e-5)


def test_data_modules_size_follows_the_models(data_root: Path) -> None:
    data = ContinualDataModule(str(data_root), ["b"], image_size=32)
    with pytest.raises(
        DataError, match=r"data.image_size \(32, 32\) is not the model's \(48, 48\)"
    ):
        data.follow(MoLEFlow(**TINY_MODEL).data_plan, Path())


def test_a_preset_gives_the_model_its_arguments_and_others_replace_them() -> None:
    small = {"backbone": "test_vit", "backbone_weights": "random", "layers": [0, 1], "grid": None}
    model = MoLEFlow.from_preset("seed", **small, image_size=SIZE, target_embed_dim=None)
    assert (model.hparams["score"], model.hparams["backbone"]) == ("nll", "test_vit")
    optimizer = model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert (type(optimizer), optimizer.defaults["lr"]) == (AdamW, 1e-4)
    with pytest.raises(ConfigError, match="'dmeo': there is no such preset. Did you mean demo?"):
        MoLEFlow.from_preset("dmeo")
