"""When a task begins and ends within one `trainer.fit`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.callbacks.devices import check_devices, check_precision, rewrap_ddp
from moleflow_pl.callbacks.guard import check_finite
from moleflow_pl.callbacks.run_checkpoint import use_whole_checkpoints
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.module import MoLEFlow
from moleflow_pl.tasks.calibration import FALSE_ALARM_RATE, check_rate
from moleflow_pl.tasks.schedule import TaskSchedule, lr_factor

MOST_EPOCHS = 1_000_000


class TaskSchedulerCallback(Callback):
    """Learns the tasks of the data module one after another in one fit.

    Every `epochs_per_task` epochs it closes a task (router prototype, calibration on the good
    images that were held out, task checkpoint) and opens the next one (new expert, frozen base, new
    optimizer). How far each task is stands in the model and so in its checkpoints: a run goes on
    where it stopped, and a longer task list adds to a finished one.

    Args:
        epochs_per_task: Epochs of each task; those already begun keep the number they began with.
        warmup_epochs: Epochs of linear warm-up, for every task but the first.
        final_lr_factor: Where the cosine of the learning rate would end, as a share of its start.
        false_alarm_rate: Share of good images that a product's threshold may call defective;
            `moleflow calibrate` changes it later, without training.
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
        self._batch: Mapping[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: MoLEFlow, stage: str) -> None:  # type: ignore[override]
        """Plan the tasks; a checkpoint that is loaded later puts in what it has learned."""
        use_whole_checkpoints(trainer)
        if stage != "fit":
            return
        check_devices(trainer)
        check_precision(trainer)
        groups = trainer.datamodule.groups  # type: ignore[attr-defined]
        pl_module.schedule.extend(groups, self.epochs_per_task)
        # each epoch asks the data module for the loader of the task that is current by then
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        if not trainer.datamodule.val_fraction:  # type: ignore[attr-defined]
            trainer.limit_val_batches = 0

    def on_fit_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Look at the data of what is still to be learned; say how long the fit is."""
        schedule = pl_module.schedule
        trainer.fit_loop.max_epochs = schedule.epochs
        trainer.datamodule.check_images(schedule.todo)  # type: ignore[attr-defined]
        counts = trainer.datamodule.count_images(schedule.todo)  # type: ignore[attr-defined]
        for index in schedule.todo:
            task, split = schedule.tasks[index], trainer.datamodule.split_hash(index)  # type: ignore[attr-defined]
            if task.epochs_done and task.split != split:
                rank_zero_info(
                    f"the images of {task.name!r} are not those of its first {task.epochs_done} "
                    "epochs: for one that learns from these alone, begin it anew"
                )
            task.split = split
        if counts and trainer.is_global_zero:
            Console().print(counts_table(counts))
        elif not counts:
            rank_zero_info(f"all tasks are learned: {schedule.names}")

    def on_train_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Wrap the model as it is now: the first task's expert came after Lightning did so."""
        rewrap_ddp(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Open the current task if it is new, and set the epoch's learning rate."""
        self._epoch_started = time.monotonic()
        current = pl_module.schedule.current
        assert current is not None
        if current not in pl_module.flow.tasks:
            pl_module.begin_task(current)
            rewrap_ddp(trainer)
            # one that knows nothing of the last task
            trainer.strategy.setup_optimizers(trainer)
        if not pl_module.schedule.tasks[current].epochs_done:
            loader = trainer.datamodule.train_loader_in_order(current)  # type: ignore[attr-defined]
            pl_module.prepare_task(current, loader)
        factor = self.factor(pl_module.schedule, current)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Keep the batch at hand, for a message that names its images."""
        self._batch = batch

    def on_before_backward(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, loss: Tensor
    ) -> None:
        """Stop at a loss that is no number."""
        check_finite(loss, "loss", trainer, pl_module, self._batch)

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, optimizer: Optimizer
    ) -> None:
        """Log what a step does, before the gradient is clipped; stop if it is no number."""
        current = pl_module.schedule.current
        assert current is not None
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in trained if p.grad is not None]
        name = pl_module.schedule.tasks[current].name
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1}
        norm = get_total_norm(gradients)
        # a scaler for half precision looks for overflow by itself, and leaves such a step out
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            check_finite(norm, "gradient", trainer, pl_module, self._batch)
        pl_module.log(f"train/{name}/grad_norm", norm, **options)
        pl_module.log(f"train/{name}/lr", optimizer.param_groups[0]["lr"], **options)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Count the epoch; close the task if it was its last."""
        if self._epoch_started is None:
            # Lightning, restarted from a file written in this hook, calls it again for that epoch
            return
        current = pl_module.schedule.current
        assert current is not None
        task = pl_module.schedule.tasks[current]
        last = task.epochs_done + 1 == task.epochs
        if last:
            loader = trainer.datamodule.train_loader_in_order(current)  # type: ignore[attr-defined]
            pl_module.finish_task(current, loader)
            held_out = trainer.datamodule.held_out_loader(current)  # type: ignore[attr-defined]
            if held_out is not None:
                images = trainer.datamodule.held_out_images(current)  # type: ignore[attr-defined]
                pl_module.calibrate_task(current, held_out, self.false_alarm_rate, images)
        task.epochs_done += 1
        task.fit_seconds += time.monotonic() - self._epoch_started
        self._epoch_started = None
        if last:
            path = RunFolder(Path(trainer.default_root_dir)).task_checkpoint(current, task.name)
            trainer.save_checkpoint(path, weights_only=False)

    def factor(self, schedule: TaskSchedule, task: int) -> float:
        """Share of the configured learning rate for the coming epoch of `task`."""
        state = schedule.tasks[task]
        warmup = self.warmup_epochs if task else 0
        return lr_factor(state.epochs_done, state.epochs, warmup, self.final_lr_factor)


def counts_table(counts: dict[str, dict[str, int]]) -> Table:
    """Images of each product, by what they are for."""
    table: Any = Table(title="images to learn and to test with")
    table.add_column("product")
    for part in ("learn", "held out", "test, good", "test, defective"):
        table.add_column(part, justify="right")
    for product, parts in counts.items():
        table.add_row(escape(product), *map(str, parts.values()))
    return table
