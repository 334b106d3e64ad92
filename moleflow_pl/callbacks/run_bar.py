"""The progress bar of a run: product, step, and remaining time of the whole run."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

from moleflow_pl._internal.logs import is_first_process
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.steps import Advance, can_draw, showing_steps
from moleflow_pl.callbacks.evaluation import EvaluationCallback
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.data.trainer_data import data_of
from moleflow_pl.data.variants import variants_of
from moleflow_pl.tasks.schedule import TaskSchedule

FEATURES, EPOCH, BANK, CALIBRATION, TEST = "features", "epoch", "bank", "calibration", "test"
BATCH = "batch"  # of a test, a validation or a prediction
# until a kind of step was timed, this kind estimates its time per image
ALIKE = {CALIBRATION: FEATURES, TEST: FEATURES, BANK: EPOCH}
# narrow: the remaining time must fit within 80 columns
FORMAT = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}"


class RunClock:
    """Estimates the remaining time from the finished steps.

    Args:
        work: Number of images that each kind of step has to process.
        now: Returns the time in seconds.
    """

    def __init__(
        self, work: Mapping[str, int] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.left = Counter(work or {})
        self._now = now
        self._done: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._since = now()

    def begin(self) -> None:
        """Start a step."""
        self._since = self._now()

    def advance(self, kind: str, count: int) -> None:
        """Count finished images of a kind of step."""
        now = self._now()
        self._seconds[kind] = self._seconds.get(kind, 0.0) + now - self._since
        self._since = now
        self._done[kind] += count
        self.left[kind] -= count

    def seconds_left(self) -> tuple[float, bool]:
        """Seconds that steps of a known speed will take, and whether all speeds are known."""
        rates = {kind: self._seconds[kind] / n for kind, n in self._done.items() if n}
        left = {kind: images for kind, images in self.left.items() if images > 0}
        known = {kind: rates.get(kind, rates.get(ALIKE.get(kind, EPOCH))) for kind in left}
        seconds = sum(left[kind] * rate for kind, rate in known.items() if rate is not None)
        return seconds, None not in known.values()

    def time_left(self) -> str:
        """The time until the end in words; empty before the first image."""
        seconds, whole = self.seconds_left()
        return f"{'' if whole else 'over '}{in_words(seconds)} left" if self._done else ""


def in_words(seconds: float) -> str:
    """A duration in words, rounded like an estimate.

    Example:
        >>> [in_words(seconds) for seconds in (42.0, 200.0, 7500.0)]
        ['42 s', '3 min', '2 h 05 min']
    """
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def work_of(
    schedule: TaskSchedule,
    data: ContinualDataModule,
    evaluation: EvaluationCallback | None,
    training_scored: bool,
) -> Counter[str]:
    """Number of images that each kind of step of a fit has to process.

    Args:
        schedule: The tasks.
        data: Their images.
        evaluation: The evaluation, if the fit has one.
        training_scored: Whether training images are scored besides calibration images.
    """
    todo = schedule.todo
    counts = data.count_images(todo)
    tested = {task: len(data.test_loader(task).dataset) for task in data.tasks_on_disk()}  # type: ignore[arg-type]
    work: Counter[str] = Counter()
    for index in todo:
        task = schedule.tasks[index]
        parts = [counts[product] for product in task.products]
        train = sum(
            counts[name]["train"] * (1 + len(variants_of(name, data.variants)))
            for name in task.products
        )
        unchanged, val = (sum(part[name] for part in parts) for name in ("train", "val"))
        tested[index] = sum(part["test_good"] + part["test_defective"] for part in parts)
        work[FEATURES] += train + val
        work[EPOCH] += train * (task.epochs - task.epochs_done)
        work[BANK] += train
        work[CALIBRATION] += val + (unchanged if training_scored else 0)
        if evaluation and (evaluation.evaluate_every_task or index == todo[-1]):
            work[TEST] += sum(tested.values())
    return work


class RunProgressBar(ProgressBar):
    """Shows the current step and the remaining time of the whole run.

    Only on a terminal or in a notebook: a file or a pipe gets the messages between the steps.

    Args:
        stream: Where to draw; by default standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._steps = ExitStack()
        self.clock = RunClock()
        self.place = ""  # number of the current task, such as `2/3 `
        self._fitted = TaskSchedule()
        self._stream = stream
        self._bar: Any = None
        self._enabled = is_first_process()

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False
        self._close()

    @contextmanager
    def step(self, title: str, kind: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a step; see `moleflow_pl._internal.steps.step`."""
        if kind == FEATURES:  # the first of a task
            self._mark()
        self._open(title, total)
        try:
            yield lambda count: self._advance(kind, count, count)
        finally:
            self._close()

    def _open(self, title: str, total: int) -> None:
        self._close()
        self.clock.begin()
        self._bar = tqdm(
            total=total, desc=f"{self.place}{title}", bar_format=FORMAT, leave=False,
            file=self._stream, dynamic_ncols=True,
            disable=not (self._enabled and can_draw(self._stream or sys.stderr)),
        )  # fmt: skip
        self._note(refresh=True)

    def _open_only(self, title: str, batches: Sequence[int | float]) -> None:
        """Show the only step of a run, which counts batches."""
        total = int(sum(batches))
        self.clock = RunClock({BATCH: total})
        self._open(title, total)

    def _advance(self, kind: str, images: int, count: int = 1, note: str = "") -> None:
        self.clock.advance(kind, images)
        self._note(note)
        if self._bar is not None:
            self._bar.update(count)

    def _note(self, note: str = "", refresh: bool = False) -> None:
        """Show the remaining time, followed by a note."""
        if self._bar is not None and not self._bar.disable:
            left = self.clock.time_left()
            run = f"run: {left}" if left else ""
            self._bar.set_postfix_str(", ".join(filter(None, [run, note])), refresh)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._steps.close()
        self._steps.enter_context(showing_steps(self.step))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._steps.close()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedule, callbacks = self._schedule(pl_module), trainer.callbacks  # type: ignore[attr-defined]
        evaluation = next((c for c in callbacks if isinstance(c, EvaluationCallback)), None)
        inspector: Any = pl_module.inspector
        scored = inspector.score.all_have_banks
        self.clock = RunClock(work_of(schedule, data_of(trainer), evaluation, scored))
        self._fitted = schedule

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedule = self._schedule(pl_module)
        self._mark()
        if schedule.current is not None:
            task = schedule.tasks[schedule.current]
            title = f"{printable(task.name)}, epoch {task.epochs_done + 1} of {task.epochs}"
            self._open(title, int(self.total_train_batches))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # reading a number waits for the GPU: only if the bar is shown
        drawn = self._bar is not None and not self._bar.disable
        nll = trainer.callback_metrics.get("nll_per_dim") if drawn else None
        note = "" if nll is None else f"NLL {float(nll):.3f}"
        self._advance(EPOCH, len(batch["task"]), note=note)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._open_only("validation", trainer.num_val_batches)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn != "fit":
            self._advance(BATCH, 1)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if self._bar is None:  # only now, so that other messages come first
            self._open_only("test", trainer.num_test_batches)
        name = self._schedule(pl_module).tasks[int(batch["task"][0])].name
        self._bar.set_description_str(f"test of {printable(name)}", refresh=False)

    def on_test_batch_end(self, *args: Any) -> None:
        self._advance(BATCH, 1)

    def on_predict_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if self._bar is None:
            self._open_only("predicting", trainer.num_predict_batches)

    def on_predict_batch_end(self, *args: Any) -> None:
        self._advance(BATCH, 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._close()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: Any) -> None:
        self._close()
        self._steps.close()

    @staticmethod
    def _schedule(module: Any) -> TaskSchedule:
        return module.schedule

    def _mark(self) -> None:
        """Remember the number of the current task."""
        current = self._fitted.current
        self.place = "" if current is None else f"{current + 1}/{len(self._fitted.tasks)} "
