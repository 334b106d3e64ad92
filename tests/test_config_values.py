"""Whatever a number is, it is refused at the start or works to the end."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from callbacks import TaskSchedulerCallback
from moleflow_pl import ContinualDataModule
from moleflow_pl.data.layouts import task_groups
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.evaluation import EvaluationOptions, TaskScores
from moleflow_pl.schedule import lr_factor

NUMBERS = st.floats(-2, 20) | st.sampled_from([float("nan"), float("inf"), -float("inf")])


@given(st.integers(-3, 40), NUMBERS, NUMBERS, st.sampled_from(["nearest", "bilinear", "bicubic"]))
@settings(max_examples=150)
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
        {**what, "gt_label": torch.tensor([0, 1]), "gt_mask": masks},
        {
            "routed_task": torch.tensor([0, 0]), "router_distance": numbers,
            "distances": numbers[:, None], "routed_score": numbers, "oracle_score": numbers,
            "routed_map": maps, "oracle_map": maps,
        },
    )  # fmt: skip
    values = scores.metrics()["values"]
    assert all(0 <= way <= 1 + 1e-9 for ways in values.values() for way in ways.values())


@given(st.integers(-3, 60), st.integers(-3, 60), NUMBERS)
@settings(max_examples=200)
def test_every_schedule_is_refused_or_has_rates_up_to_one(
    epochs: int, warmup: int, final: float
) -> None:
    try:
        TaskSchedulerCallback(epochs, warmup, final)
    except ConfigError:
        assert epochs < 1 or warmup < 0 or not 0 <= final <= 1
        return
    assert all(0 <= lr_factor(epoch, epochs, warmup, final) <= 1 for epoch in range(epochs))


@given(st.integers(-2, 40), st.integers(-2, 8), NUMBERS)
def test_every_loader_is_refused_or_made(batch: int, workers: int, held_out: float) -> None:
    try:
        module = ContinualDataModule(
            "x", ["a"], batch_size=batch, num_workers=workers, val_fraction=held_out
        )
    except DataError:
        assert batch < 1 or workers < 0 or not 0 <= held_out < 1
        return
    assert module.batch_size >= 1
    assert 0 <= module.val_fraction < 1


NAMES = st.text(max_size=12) | st.integers(0, 99)


@given(st.lists(NAMES | st.lists(NAMES, max_size=3), max_size=4))
@settings(max_examples=200)
def test_every_task_list_is_refused_or_names_each_task_once(tasks: list) -> None:
    try:
        groups = task_groups(tasks)
    except DataError:
        return
    names = ["+".join(group) for group in groups]
    assert len(set(names)) == len(groups) == len(tasks)
    assert all("/" not in name and name.strip() for name in names)
