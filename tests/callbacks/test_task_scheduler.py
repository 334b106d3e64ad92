import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import EvaluationCallback
from moleflow_pl.callbacks.task_scheduler import (
    TaskSchedulerCallback,
    counts_table,
    lost_region_warning,
    record_images,
)
from moleflow_pl.checkpoints.run_folder import LOCK
from moleflow_pl.data.feature_store import extract_features
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.tasks.schedule import TaskSchedule
from tests.helpers.models import TINY_MODEL, fit, some_tasks
from tests.helpers.products import draw_product


class Watch(Callback):
    """Notes what an epoch trains, and with which learning rate."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, float]] = []
        self.parameters: list[set[int]] = []

    def on_train_batch_end(self, trainer, module, *args) -> None:  # noqa: ANN001, ANN002
        group = trainer.optimizers[0].param_groups[0]
        note = (module.schedule.current, round(group["lr"] / group["initial_lr"], 4))
        if not self.epochs or self.epochs[-1] != note:
            self.epochs.append(note)
            self.parameters.append({id(p) for p in group["params"]})


def weights(module: MoLEFlow) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if "backbone" not in k}


def test_one_fit_learns_all_tasks_with_the_rates_of_the_table(
    tmp_path: Path, data_root: Path
) -> None:
    watch = Watch()
    module = fit(tmp_path, data_root, ["01", "b"], epochs=4, callbacks=[watch])
    expected = [(0, 1.0), (0, 0.855), (0, 0.505), (0, 0.155)]
    expected += [(1, 0.5), (1, 1.0), (1, 0.855)]  # 1.0 stands for two epochs
    assert watch.epochs == expected
    assert module.schedule.current is None
    assert watch.parameters[-1] == {id(p) for p in module.inspector.flow.expert_parameters(1)}
    assert module.inspector.router.tasks == [0, 1]


def test_task_checkpoints_are_written_by_number_and_name(learned: tuple[Path, MoLEFlow]) -> None:
    names = sorted(path.name for path in (learned[0] / "tasks").iterdir())
    assert names == ["00-01.ckpt", "01-b.ckpt"]


def test_a_second_task_leaves_the_first_bit_equal(learned: tuple[Path, MoLEFlow]) -> None:
    run, module = learned
    first = torch.load(run / "tasks" / "00-01.ckpt", weights_only=True)["state_dict"]
    state = module.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in first.items())
    rows = [task.evaluation["metrics"]["image_auroc"]["oracle"] for task in module.schedule.tasks]
    assert rows[0][0] == rows[1][0]


def test_images_that_changed_while_a_task_was_half_learned_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    schedule = TaskSchedule()
    schedule.extend([["a"], ["b"]], epochs=4)
    data: Any = SimpleNamespace(split_hash=lambda task: "new")
    for split, done, count in (("old", 2, 1), ("new", 2, 0), ("old", 0, 0)):
        schedule.tasks[0].split, schedule.tasks[0].epochs_done = split, done
        caplog.clear()
        record_images(schedule, data, {"a": {"train": 5}, "b": {"train": 7}})
        assert len(caplog.messages) == count
        assert schedule.tasks[0].split == "new"
        assert [task.images for task in schedule.tasks] == [5, 7]
        expected = "the images of 'a' have changed since its first 2 epochs"
        assert all(expected in message for message in caplog.messages)


def test_evaluation_before_the_scheduler_is_refused_by_name(
    tmp_path: Path, data_root: Path
) -> None:
    scheduler, evaluation = TaskSchedulerCallback(1), EvaluationCallback(map_size=48)
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, max_epochs=-1,
        enable_progress_bar=False, callbacks=[evaluation, scheduler],
    )  # fmt: skip
    data = ContinualDataModule(str(data_root), ["b"], num_workers=0)
    with pytest.raises(ConfigError, match="EvaluationCallback comes before TaskScheduler"):
        trainer.fit(MoLEFlow(**TINY_MODEL), data)


@pytest.mark.parametrize("stop", ["tasks/00-01.ckpt", "middle.ckpt"])
def test_resumed_run_equals_the_straight_one(
    stop: str, learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    class Keep(Callback):
        def on_train_epoch_end(self, trainer, module) -> None:  # noqa: ANN001
            if module.schedule.tasks[1].epochs_done == 1:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    run, straight = learned
    if stop == "middle.ckpt":
        fit(tmp_path / "first", data_root, ["01", "b"], callbacks=[Keep()])
        run = tmp_path
    resumed = fit(tmp_path / "second", data_root, ["01", "b"], ckpt_path=run / stop)
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[k]) for k, tensor in weights(resumed).items())
    assert resumed.schedule.tasks[1].evaluation == straight.schedule.tasks[1].evaluation


def test_a_product_is_added_months_later_without_the_old_images(
    learned: tuple[Path, MoLEFlow], tmp_path: Path
) -> None:
    run, old = learned
    draw_product(tmp_path, "c", 2)
    module = fit(
        tmp_path / "run", tmp_path, ["01", "b", "c"], epochs=3, ckpt_path=run / "last.ckpt"
    )
    assert [task.epochs for task in module.schedule.tasks] == [2, 2, 3]
    before = weights(old)
    after = weights(module)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    rows = [task.evaluation["metrics"]["image_auroc"]["routed"] for task in module.schedule.tasks]
    assert rows[0][0] is not None
    assert rows[2][:2] == [None, None]
    assert rows[2][2] is not None


def test_added_product_equals_one_that_was_planned_from_the_start(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    planned = fit(tmp_path / "planned", data_root, ["01", "b", "c"])
    added = fit(tmp_path / "added", data_root, ["01", "b", "c"], ckpt_path=learned[0] / "last.ckpt")
    expected = weights(planned)
    assert all(torch.equal(tensor, expected[k]) for k, tensor in weights(added).items())


def test_nothing_left_to_learn_is_no_error(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    module = fit(tmp_path, data_root, ["01", "b"], ckpt_path=learned[0] / "last.ckpt")
    expected = weights(learned[1])
    assert all(torch.equal(tensor, expected[k]) for k, tensor in weights(module).items())


def test_another_order_than_the_checkpoints_is_refused(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    with pytest.raises(ConfigError, match="a task list may only append"):
        fit(tmp_path, data_root, ["b", "01"], ckpt_path=learned[0] / "last.ckpt")


def test_missing_product_stops_the_fit_before_it_begins(tmp_path: Path, data_root: Path) -> None:
    with pytest.raises(DataError, match=r"no product 'x'.*\['01', 'b', 'c'\]"):
        fit(tmp_path, data_root, ["b", "x"])
    assert {path.name for path in tmp_path.iterdir()} <= {LOCK}


def test_groups_are_one_task(tmp_path: Path, data_root: Path) -> None:
    module = fit(tmp_path, data_root, [["01", "c"], "b"], epochs=1)
    assert module.schedule.names == ["01+c", "b"]
    assert (tmp_path / "tasks" / "00-01+c.ckpt").exists()
    confusion = module.schedule.tasks[1].evaluation["confusion"]
    assert [sum(row) for row in confusion] == [12, 6]


def test_validation_runs_on_calibration_images_of_the_current_task(
    tmp_path: Path, data_root: Path
) -> None:
    seen: list[float] = []

    class Note(Callback):
        def on_validation_end(self, trainer, module) -> None:  # noqa: ANN001
            seen.extend(float(v) for k, v in trainer.callback_metrics.items() if "val/b" in k)

    fit(tmp_path, data_root, ["b"], data={"val_fraction": 0.34}, callbacks=[Note()])
    assert len(seen) == 2


def test_epochs_have_to_be_at_least_one(tmp_path: Path, data_root: Path) -> None:
    with pytest.raises(ConfigError, match="epochs_per_task must be .* from 1 to 1000000, got 0"):
        fit(tmp_path, data_root, ["b"], epochs=0)


def test_table_counts_images_by_purpose() -> None:
    counts = {"a": {"train": 1, "val": 2, "test_good": 3, "test_defective": 4}}
    table = counts_table(counts)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [["a"], ["1"], ["2"], ["3"], ["4"]]


def test_time_of_a_task_holds_that_of_its_features(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = []

    def slowly(*args: Any) -> torch.Tensor:
        if not slept:  # the features to learn from; others follow
            slept.append(time.sleep(1.0))
        return extract_features(*args)

    monkeypatch.setattr("moleflow_pl.data.feature_store.extract_features", slowly)
    started = time.monotonic()
    module = fit(tmp_path, data_root, ["01", "b"], epochs=1, callbacks=[])
    whole = time.monotonic() - started
    first, second = (task.fit_seconds for task in module.schedule.tasks)
    assert 1.0 <= first < whole
    assert 0 < second < whole - 1.0
    assert first + second < whole


def test_new_version_without_its_region_of_interest_gives_a_warning() -> None:
    module = some_tasks(MoLEFlow(**TINY_MODEL), 2)
    inside = torch.ones(module.inspector.extractor.shape[:2], dtype=torch.bool)
    for task in (0, 1):
        module.inspector.interest.set(task, inside)
    inside[0] = False
    module.inspector.interest.set(0, inside)
    assert lost_region_warning(module, 1) is None  # another product's
    module.schedule.tasks[0].replaced = True
    told = lost_region_warning(module, 1)
    assert told is not None
    assert "put roi.png beside its images, or set --data.roi" in told
    module.inspector.interest.set(1, inside)
    assert lost_region_warning(module, 1) is None
