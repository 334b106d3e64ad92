"""`TaskSchedulerCallback`: starts and ends the tasks within one `trainer.fit`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from moleflow_pl._internal.console import NamesTable, log_table
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.steps import Advance, step
from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.callbacks.devices import check_devices, check_precision, rewrap_ddp
from moleflow_pl.callbacks.evaluation import EvaluationCallback
from moleflow_pl.callbacks.finite_check import check_finite
from moleflow_pl.callbacks.other_callbacks import check_callbacks, forget_timers
from moleflow_pl.callbacks.progress import epoch_was_cut, is_trial, progress
from moleflow_pl.callbacks.run_config import RunConfig
from moleflow_pl.callbacks.suspects import suspects_warning
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.data.batches import Batch
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.data.trainer_data import data_of
from moleflow_pl.data.variants import originals_of
from moleflow_pl.errors import ConfigError
from moleflow_pl.model.leave_one_out import with_originals
from moleflow_pl.module import MoLEFlow
from moleflow_pl.tasks.schedule import Task, TaskSchedule, lr_factor, minute_in_utc
from moleflow_pl.tasks.thresholds import FALSE_ALARM_RATE, check_rate, images_for

logger = logging.getLogger(__name__)

MOST_EPOCHS = 1_000_000


class TaskSchedulerCallback(Callback):
    """Learns the tasks of the data module one after another in one fit.

    Every `epochs_per_task` epochs it closes a task (prototypes, memory bank, calibration, task
    checkpoint) and opens the next one (new expert, frozen base, new optimizer). Checkpoints store
    the progress of each task: a stopped run resumes, and a longer task list extends a finished
    one.

    Args:
        epochs_per_task: Epochs of each task; started tasks keep their number.
        warmup_epochs: Epochs of linear warm-up, for every task but the first.
        final_lr_factor: Final value of the learning rate's cosine, as a share of its start.
        false_alarm_rate: Share of good images that a product's threshold may call defective;
            `moleflow calibrate` changes it later without training.
    """

    def __init__(
        self,
        epochs_per_task: int = 10,
        warmup_epochs: int = 2,
        final_lr_factor: float = 0.01,
        false_alarm_rate: float = FALSE_ALARM_RATE,
    ) -> None:
        require_int("epochs_per_task", epochs_per_task, 1, MOST_EPOCHS)
        require_int("warmup_epochs", warmup_epochs, 0, MOST_EPOCHS)
        require_number("final_lr_factor", final_lr_factor, 0, 1)
        check_rate(false_alarm_rate)
        self.epochs_per_task = epochs_per_task
        self.warmup_epochs = warmup_epochs
        self.final_lr_factor = final_lr_factor
        self.false_alarm_rate = false_alarm_rate
        self._epoch_started: float | None = None
        self._batch: Batch = {}
        self._losses: list[tuple[Tensor, Batch]] = []  # since the last step of the optimizer

    def setup(self, trainer: Trainer, pl_module: MoLEFlow, stage: str) -> None:  # type: ignore[override]
        """Plan the tasks; a checkpoint loaded later restores the learned ones."""
        if stage != "fit":
            return
        check_devices(trainer)
        check_precision(trainer)
        check_callbacks(trainer)
        check_order(trainer, self)
        data = data_of(trainer)
        pl_module.schedule.extend(data.groups, self.epochs_per_task)
        # each epoch needs the loader of its own task
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        if not data.val_fraction:
            trainer.limit_val_batches = 0

    def on_fit_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Check the data of the tasks to learn; set the number of epochs."""
        schedule, data = pl_module.schedule, data_of(trainer)
        trainer.fit_loop.max_epochs = schedule.epochs
        # a `Timer` with no time at all would stop this fit and all resumed ones before an epoch
        trainer.fit_loop.min_epochs = schedule.epochs_done + 1
        if trainer.ckpt_path is None:
            # another Trainer may have counted epochs of this model
            counter = trainer.fit_loop.epoch_progress.current
            for count in ("ready", "started", "processed", "completed"):
                setattr(counter, count, schedule.epochs_done)
        data.check_images(schedule.todo)
        counts = data.count_images(schedule.todo)
        record_images(schedule, data, counts)
        if counts and trainer.is_global_zero:
            log_table(logger, counts_table(counts))
            tasks = [schedule.tasks[index] for index in schedule.todo]
            if few := few_images_warning(tasks, counts, self.false_alarm_rate, data.val_fraction):
                logger.warning(few)
        elif not counts:
            logger.info(f"all tasks are learned: {schedule.names}")

    def on_train_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Wrap the model again: Lightning wrapped it before it had its first expert."""
        rewrap_ddp(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Open the current task if it is new, and set the epoch's learning rate."""
        # features are computed while the epoch's loader is built, before this hook
        self._epoch_started = time.monotonic() - data_of(trainer).take_feature_seconds()
        # let a time limit end the fit after this epoch: a cut epoch would be repeated for ever
        trainer.fit_loop.min_epochs = trainer.current_epoch + 1
        current, task = current_task(pl_module.schedule)
        if current not in pl_module.inspector.flow.tasks:
            pl_module.learner.begin_task(current)
            rewrap_ddp(trainer)
            # a new optimizer without state of the last task
            trainer.strategy.setup_optimizers(trainer)
        pl_module.inspector.interest.set(current, data_of(trainer).region(current))
        if not task.epochs_done:
            warning = lost_region_warning(pl_module, current)
            if warning is not None and trainer.is_global_zero:
                logger.warning(warning)
            loader = data_of(trainer).train_loader_in_order(current)
            pl_module.learner.prepare_task(current, loader)
        factor = self.factor(pl_module.schedule, current)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the batch, so that a message can name its images."""
        self._batch = batch

    def on_before_backward(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, loss: Tensor
    ) -> None:
        """Remember the loss, which is checked before the optimizer's step."""
        self._losses.append((loss.detach(), self._batch))

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, optimizer: Optimizer
    ) -> None:
        """Log the gradient norm before clipping; stop if it or a loss is not finite."""
        _, task = current_task(pl_module.schedule)
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        # a scaler for half precision detects overflow itself, and skips such a step
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        losses, self._losses = self._losses, []
        check_finite(losses, None if scaled else norm, trainer, pl_module)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1}
        pl_module.log(f"train/{task.name}/grad_norm", norm, **options)
        pl_module.log(f"train/{task.name}/lr", optimizer.param_groups[0]["lr"], **options)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Count the epoch; close the task after its last one."""
        # resumed from a checkpoint written in this hook, Lightning calls it again for that epoch;
        # and an epoch that a limit cut is repeated when the fit resumes
        if self._epoch_started is None or epoch_was_cut(trainer):
            return
        current, task = current_task(pl_module.schedule)
        last = task.epochs_done + 1 == task.epochs
        if last:
            self._close(current, pl_module, data_of(trainer))
            warning = suspects_warning(task, trainer.default_root_dir)
            if warning is not None and trainer.is_global_zero:
                logger.warning(warning)
            task.learned_at = minute_in_utc()
        task.epochs_done += 1
        task.fit_seconds += time.monotonic() - self._epoch_started
        data_of(trainer).take_feature_seconds()  # counted in this epoch's time already
        self._epoch_started = None
        if last and not is_trial(trainer):
            run = RunFolder(Path(trainer.default_root_dir))
            trainer.save_checkpoint(run.task_checkpoint(current, task.name), weights_only=False)

    def on_save_checkpoint(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, checkpoint: dict[str, Any]
    ) -> None:
        """Leave the elapsed time of timers out, so that every command has its own."""
        forget_timers(trainer, checkpoint)

    def on_fit_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Warn if a limit ended the fit; the command line reports that itself."""
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        by_command = any(isinstance(callback, RunConfig) for callback in callbacks)
        silent = is_trial(trainer) or by_command or not trainer.is_global_zero
        if pl_module.schedule.todo and not silent:
            path = str(RunFolder(Path(trainer.default_root_dir)).last)
            done = progress(pl_module.schedule)
            logger.warning(f"{done}; resume with trainer.fit(..., ckpt_path={path!r})")

    def _close(self, task: int, module: MoLEFlow, data: ContinualDataModule) -> None:
        """Fit prototypes and memory banks of a trained task, and calibrate it."""
        calibration, images = data.calibration_loader(task), data.calibration_images(task)
        train, name = data.train_loader_in_order(task), printable(module.schedule.tasks[task].name)
        with step(f"bank of {name}", "bank", size_of(train)) as advance:
            counted = CountedBatches(train, advance)
            origins = module.learner.finish_task(task, counted, calibration)
        if calibration is not None:
            origins = with_originals(origins, originals_of(train.dataset.records))  # type: ignore[attr-defined]
            train = data.originals_in_order(task)
            scored = size_of(train) if module.inspector.score.all_have_banks else 0
            count = scored + size_of(calibration)
            with step(f"calibration of {name}", "calibration", count) as advance:
                counted = CountedBatches(train, advance)
                training = module.learner.score_training(task, counted, origins)
                pixels = CountedBatches(images or (), advance)
                rate = self.false_alarm_rate
                module.learner.calibrate_task(task, calibration, rate, pixels, training)

    def factor(self, schedule: TaskSchedule, task: int) -> float:
        """Share of the configured learning rate for the coming epoch of `task`."""
        state = schedule.tasks[task]
        warmup = self.warmup_epochs if task else 0
        return lr_factor(state.epochs_done, state.epochs, warmup, self.final_lr_factor)


class CountedBatches:
    """Batches that report the number of their images while they are read.

    Args:
        batches: The batches.
        advance: Called with the number of images after each batch.
    """

    def __init__(self, batches: Iterable[Batch], advance: Advance) -> None:
        self.batches, self.advance = batches, advance

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield batch
            self.advance(len(batch["task"]))


def size_of(loader: DataLoader) -> int:
    """Number of images that a loader reads."""
    return len(loader.sampler)  # type: ignore[arg-type]


def current_task(schedule: TaskSchedule) -> tuple[int, Task]:
    """Number and state of the task that is being trained."""
    current = schedule.current
    assert current is not None
    return current, schedule.tasks[current]


def lost_region_warning(module: MoLEFlow, task: int) -> str | None:
    """A warning if a new version lacks the region of interest of the one it replaces."""
    interest, tasks = module.inspector.interest, module.schedule.tasks
    replaced = [
        i for i, other in enumerate(tasks) if other.replaced and interest.for_task(i) is not None
    ]
    if interest.for_task(task) is not None or not replaced:
        return None
    return (
        f"{printable(tasks[task].name)}: the version it replaces has a region of interest, but "
        "this one sees whole images: put roi.png beside its images, or set --data.roi"
    )


def check_order(trainer: Trainer, scheduler: TaskSchedulerCallback) -> None:
    """Check that evaluations run after a task is closed; otherwise the last is left out.

    Raises:
        ConfigError: an `EvaluationCallback` comes before the scheduler.
    """
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
    before = callbacks[: callbacks.index(scheduler)]
    if any(isinstance(callback, EvaluationCallback) for callback in before):
        raise ConfigError(
            "EvaluationCallback comes before TaskSchedulerCallback in the Trainer's callbacks and "
            "would evaluate each task before it is finished: list TaskSchedulerCallback first"
        )


def record_images(
    schedule: TaskSchedule, data: ContinualDataModule, counts: Mapping[str, Mapping[str, int]]
) -> None:
    """Record the images of each task to learn; warn if they changed since it began."""
    for index in schedule.todo:
        task, split = schedule.tasks[index], data.split_hash(index)
        if task.epochs_done and task.split != split:
            logger.warning(
                f"the images of {task.name!r} have changed since its first {task.epochs_done} "
                "epochs: to learn from the present images alone, start the task again"
            )
        task.split = split
        task.images = sum(counts[product]["train"] for product in task.products)


def few_images_warning(
    tasks: Sequence[Task],
    counts: Mapping[str, Mapping[str, int]],
    rate: float,
    val_fraction: float,
) -> str | None:
    """A warning about tasks with too few images for a false-alarm rate; None without any.

    Args:
        tasks: Tasks to learn.
        counts: Images of each product, by purpose.
        rate: The false-alarm rate.
        val_fraction: Share of the good images that is for calibration.

    Example:
        >>> counts = {"a": {"train": 27, "val": 3}}
        >>> "'a' has 3; 99 are" in few_images_warning([Task(["a"], 1)], counts, 0.01, 0.1)
        True
    """
    needed = images_for(rate)
    have = {task.name: sum(counts[name]["val"] for name in task.products) for task in tasks}
    few = [f"{name!r} has {count}" for name, count in have.items() if count < needed]
    if not few or not val_fraction:
        return None
    good = math.ceil(round(needed / val_fraction, 6))
    return (
        f"too few calibration images for a false-alarm rate of {100 * rate:.3g} %, so that "
        f"thresholds are extrapolated: {', '.join(few)}; {needed} are enough, of {good} good "
        f"images (data.val_fraction {val_fraction:g})"
    )


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> NamesTable:
    """A table of the number of images of each product, by purpose."""
    table = NamesTable(title="images to learn and to test with")
    table.add_column("product")
    for part in ("training", "calibration", "test, good", "test, defective"):
        table.add_column(part, justify="right")
    for product, parts in counts.items():
        table.add_row(product, *map(str, parts.values()))
    return table
