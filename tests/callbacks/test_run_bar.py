import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl._internal.steps import step
from moleflow_pl.callbacks import EvaluationCallback
from moleflow_pl.callbacks.run_bar import RunClock, RunProgressBar, in_words, work_of
from moleflow_pl.tasks.schedule import TaskSchedule


class Terminal(io.StringIO):
    """Something to draw on."""

    def isatty(self) -> bool:
        return True


def clock_of(**work: int) -> tuple[RunClock, list[float]]:
    """A clock, and the time, which the test sets."""
    now = [0.0]
    return RunClock(work, lambda: now[0]), now


def test_time_left_is_that_of_the_images_left_of_every_kind() -> None:
    clock, now = clock_of(features=30, epoch=100, bank=10, calibration=4, test=20)
    clock.begin()
    now[0] = 20.0
    clock.advance("features", 10)  # 2 s an image
    # how long an epoch takes is not known yet
    assert clock.seconds_left() == (20 * 2 + 4 * 2 + 20 * 2, False)
    assert clock.time_left() == "over 1 min left"
    now[0] = 1000.0  # what lies between two steps is of none
    clock.begin()
    now[0] = 1010.0
    clock.advance("epoch", 20)  # 0.5 s an image
    # a bank takes about an epoch's time, calibration and test the features'
    assert clock.seconds_left() == (20 * 2 + 80 * 0.5 + 10 * 0.5 + 4 * 2 + 20 * 2, True)
    assert clock.time_left() == "2 min left"
    clock.begin()
    now[0] = 1020.0
    clock.advance("test", 10)  # 1 s an image: the kind itself counts
    assert clock.seconds_left() == (20 * 2 + 80 * 0.5 + 10 * 0.5 + 4 * 2 + 10 * 1, True)


def test_more_images_than_were_planned_take_no_time_back() -> None:
    clock, now = clock_of(epoch=10)
    now[0] = 10.0
    clock.advance("epoch", 20)
    assert clock.seconds_left() == (0, True)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (61, "1 min"), (3540, "59 min"), (3600, "1 h 00 min")],
)
def test_a_duration_is_printed_as_precisely_as_it_is_known(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_the_work_of_a_fit_is_counted_over_its_tasks(
    learned: tuple[Path, MoLEFlow], data_root: Path, tmp_path: Path
) -> None:
    _, module = learned
    schedule = TaskSchedule()
    schedule.extend([["01"], ["b"], ["c"]], epochs=4)
    schedule.tasks[0].epochs_done = 4
    schedule.tasks[1].epochs_done = 1
    data = ContinualDataModule(str(data_root), ["01", "b", "c"], num_workers=0)
    plan = SimpleNamespace(extractor=module.inspector.extractor, schedule=schedule)
    data.follow(plan, tmp_path)  # type: ignore[arg-type]
    # of each product five to learn from, one for calibration, six to test with
    work = work_of(schedule, data, EvaluationCallback(), True)
    assert work == {
        "features": 12, "epoch": 5 * (3 + 4), "bank": 10, "calibration": 12, "test": 12 + 18,
    }  # fmt: skip
    # without memory banks, calibration images alone are scored
    assert work_of(schedule, data, None, False)["calibration"] == 2
    assert (
        work_of(schedule, data, EvaluationCallback(evaluate_every_task=False), True)["test"] == 18
    )
    assert work_of(schedule, data, None, True)["test"] == 0


def shown_of_an_epoch(bar: RunProgressBar) -> None:
    """An epoch of the second of three tasks, and the step after it."""
    schedule = TaskSchedule()
    schedule.extend([["a"], ["b\x1b[1m"], ["c"]], epochs=4)
    schedule.tasks[0].epochs_done, schedule.tasks[1].epochs_done = 4, 2
    module = SimpleNamespace(schedule=schedule)
    trainer = SimpleNamespace(
        max_epochs=-1, max_steps=-1, num_training_batches=2, is_global_zero=True,
        callback_metrics={"nll_per_dim": torch.tensor(1.5)},
    )  # fmt: skip
    bar.setup(trainer, module, "fit")  # type: ignore[arg-type]
    bar._fitted = schedule
    bar.clock = RunClock({"epoch": 8}, lambda: 0.0)
    bar.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    # so that every step is drawn, however slow the machine is
    bar._bar.mininterval = bar._bar.miniters = 0
    bar._bar.dynamic_miniters = False
    bar.on_train_batch_end(trainer, module, None, {"task": torch.zeros(4)}, 0)  # type: ignore[arg-type]
    bar.on_train_batch_end(trainer, module, None, {"task": torch.zeros(4)}, 1)  # type: ignore[arg-type]
    bar.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    with step("test of b", "test", 2) as advance:
        advance(1)
    bar.teardown(trainer, module, "fit")  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [80, 200])
def test_the_bar_names_product_step_and_the_time_left_of_the_run(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    terminal = Terminal()
    shown_of_an_epoch(RunProgressBar(terminal))
    shown = terminal.getvalue()
    assert re.search(r"2/3 b\\x1b\[1m, epoch 3 of 4 +100%", shown)
    assert "run: 0 s left, NLL 1.500" in shown
    assert "2/3 test of b" in shown
    assert shown.rstrip(" ").endswith("\r")  # nothing of it stays


def test_the_bar_of_a_test_names_the_product_of_the_batch() -> None:
    terminal, schedule = Terminal(), TaskSchedule()
    schedule.extend([["a"], ["b"]], epochs=1)
    bar, module = RunProgressBar(terminal), SimpleNamespace(schedule=schedule)
    trainer = SimpleNamespace(num_test_batches=[1, 1])
    for task in (0, 1):
        bar.on_test_batch_start(trainer, module, {"task": torch.tensor([task])}, 0, task)  # type: ignore[arg-type]
        bar._bar.mininterval = 0
        bar.on_test_batch_end()
    bar.on_test_end(trainer, module)  # type: ignore[arg-type]
    shown = terminal.getvalue()
    assert re.search(r"test of a +50%.*1/2", shown)
    assert re.search(r"test of b +100%.*2/2", shown)
    assert "run: 0 s left" in shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_nothing_is_drawn_into_a_file_or_by_another_process(stream: io.StringIO) -> None:
    bar = RunProgressBar(stream)
    if stream.isatty():
        bar.setup(SimpleNamespace(is_global_zero=False), None, "fit")  # type: ignore[arg-type]
        bar.disable()
        bar.on_predict_batch_start(SimpleNamespace(num_predict_batches=[2]))  # type: ignore[arg-type]
        bar.on_predict_batch_end()
        bar.teardown(None, None, "fit")  # type: ignore[arg-type]
    else:
        shown_of_an_epoch(bar)
    assert stream.getvalue() == ""
