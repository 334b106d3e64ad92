"""Whatever a number is, it is refused at the start or works to the end."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_pl import ContinualDataModule, LoRALinear, MoLEFlow, MoLESpatialAwareNF
from moleflow_pl.callbacks import EvaluationCallback, TaskSchedulerCallback
from moleflow_pl.data.layouts.registry import task_groups
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.metrics.task_scores import EvaluationOptions, MapUpsampling, TaskScores
from moleflow_pl.tasks.schedule import lr_factor
from tests.helpers.models import TINY_MODEL

NUMBERS = st.floats(-2, 20) | st.sampled_from([float("nan"), float("inf"), -float("inf")])


@given(st.integers(-3, 40), NUMBERS, NUMBERS, st.sampled_from(get_args(MapUpsampling)))
@settings(max_examples=60)
def test_every_map_is_refused_or_evaluated(
    size: int, sigma: float, limit: float, upsampling: str
) -> None:
    try:
        options = EvaluationOptions(size, sigma, limit, upsampling)
    except ConfigError:
        assert size < 1 or not 0 <= sigma < float("inf") or not 0 < limit <= 1
        return
    scores = TaskScores(0, options)
    masks = [torch.zeros(8, 8, dtype=torch.uint8), torch.ones(8, 8, dtype=torch.uint8)]
    what = {"path": ["a", "b"], "product": ["p"] * 2, "defect": ["good", "hole"]}
    numbers = torch.tensor([0.0, 1.0])
    maps = torch.arange(32.0).reshape(2, 4, 4).sin()
    scores.update(
        {
            **what, "gt_label": torch.tensor([0, 1]), "gt_mask": masks,
            "image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        },
        {
            "routed_task": torch.tensor([0, 0]), "router_distance": numbers,
            "distances": numbers[:, None], "routed_score": numbers, "oracle_score": numbers,
            "routed_map": maps, "oracle_map": maps,
        },
    )  # fmt: skip
    values = scores.metrics()["values"]
    assert all(0 <= way <= 1 + 1e-9 for ways in values.values() for way in ways.values())


@given(st.integers(-3, 60), st.integers(-3, 60), NUMBERS)
@settings(max_examples=100)
def test_every_schedule_is_refused_or_has_rates_up_to_one(
    epochs: int, warmup: int, final: float
) -> None:
    try:
        TaskSchedulerCallback(epochs, warmup, final)
    except ConfigError:
        assert epochs < 1 or warmup < 0 or not 0 <= final <= 1
        return
    assert all(0 <= lr_factor(epoch, epochs, warmup, final) <= 1 for epoch in range(epochs))


# none of them is a number of any argument's
NO_NUMBERS: list[Any] = ["4", "x", None, True, [1], [1, 2, 3], {}, float("nan"), float("inf")]
ODD: list[Any] = [0, -1, -0.5, 1e-9, 0.5, 1, 2, 3, 5, 16, 2.5, 1e6, 10**9, 10**400, [0, 3], [3, 4]]
VALUES = st.sampled_from(NO_NUMBERS + ODD)
MODEL_NUMBERS = (
    "image_size", "target_embed_dim", "smooth", "grid", "tile", "tile_overlap", "coupling_layers",
    "clamp_alpha", "lora_rank", "lora_alpha", "bank_mb", "patch_fraction", "image_quantile",
)  # fmt: skip
PARTS: dict[str, tuple[Callable[..., object], tuple[str, ...]]] = {
    "schedule": (
        TaskSchedulerCallback,
        ("epochs_per_task", "warmup_epochs", "final_lr_factor", "false_alarm_rate"),
    ),
    "evaluation": (EvaluationCallback, ("map_size", "blur_sigma", "aupro_limit")),
    "data": (
        partial(ContinualDataModule, "x", ["a"]),
        ("image_size", "batch_size", "num_workers", "val_fraction", "feature_memory_gb"),
    ),
    "flow": (
        MoLESpatialAwareNF,
        ("embed_dim", "coupling_layers", "clamp_alpha", "lora_rank", "lora_alpha"),
    ),
    "layer": (partial(LoRALinear, 4, 4), ("rank", "alpha")),
}


def refused_by_name(error: ConfigError, name: str, value: object) -> None:
    """The message names the argument, what it got and what is allowed."""
    said = str(error)
    assert name in said or (name == "false_alarm_rate" and "false-alarm rate" in said)
    assert any(repr(part) in said for part in (value if isinstance(value, list) else [value])), said
    assert len(said.splitlines()) == 1
    limits = "must be|has to be|multiple|at most|odd|takes images|levels"
    assert re.search(limits, said), said


def refused_by_name_or_learns(name: str, value: Any) -> None:
    options = {"tile": 32, "image_size": 64} if name == "tile_overlap" else {}
    try:
        model = MoLEFlow(**{**TINY_MODEL, "score": "bank", **options, name: value})
    except ConfigError as error:
        refused_by_name(error, name, value)
        return
    if model.inspector.extractor.image_size[0] > 64:
        return  # a large one is no question of the arguments
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    model.schedule.extend([["a"]], epochs=1)
    images = torch.randint(0, 256, (2, 3, *model.inspector.extractor.image_size), dtype=torch.uint8)
    batch = {"image": images, "task": torch.zeros(2, dtype=torch.long)}
    model.learner.begin_task(0)
    model.learner.prepare_task(0, [batch])
    assert model.training_step(batch, 0).isfinite()
    model.learner.finish_task(0, [batch])
    with torch.no_grad():
        assert model(images).score.isfinite().all()


@given(st.sampled_from(MODEL_NUMBERS), VALUES)
@settings(max_examples=50)
def test_numbers_of_the_model_are_refused_by_name_or_learn_and_score(name: str, value: Any) -> None:
    refused_by_name_or_learns(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_NUMBERS)
def test_every_number_of_the_model_is_refused_by_name_or_learns_and_scores(name: str) -> None:
    for value in NO_NUMBERS + ODD:
        refused_by_name_or_learns(name, value)


@given(st.data())
@settings(max_examples=100)
def test_every_number_of_the_other_parts_is_refused_by_name_or_taken(data: st.DataObject) -> None:
    make, names = PARTS[data.draw(st.sampled_from(sorted(PARTS)))]
    name, value = data.draw(st.sampled_from(names)), data.draw(VALUES)
    try:
        make(**{"embed_dim": 8, name: value} if make is MoLESpatialAwareNF else {name: value})
    except ConfigError as error:
        refused_by_name(error, name, value)


NAMES = st.text(max_size=12) | st.integers(0, 99)


@given(st.lists(NAMES | st.lists(NAMES, max_size=3), max_size=4))
@settings(max_examples=100)
def test_every_task_list_is_refused_or_names_each_task_once(tasks: list) -> None:
    try:
        groups = task_groups(tasks)
    except DataError:
        return
    names = ["+".join(group) for group in groups]
    assert len(set(names)) == len(groups) == len(tasks)
    assert all("/" not in name and name.strip() for name in names)
