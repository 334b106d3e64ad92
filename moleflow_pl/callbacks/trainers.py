"""Build Lightning's Trainer as the command does, and add products from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar

from moleflow_pl._internal.lightning_messages import ignore_warnings, without_messages
from moleflow_pl._internal.names import check_name
from moleflow_pl.callbacks.curves import RunCurves
from moleflow_pl.callbacks.evaluation import EvaluationCallback
from moleflow_pl.callbacks.run_bar import RunProgressBar
from moleflow_pl.callbacks.run_checkpoint import RunCheckpoint
from moleflow_pl.callbacks.task_scheduler import TaskSchedulerCallback
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.module import MoLEFlow
from moleflow_pl.tasks.calibration import FALSE_ALARM_RATE
from moleflow_pl.tasks.schedule import Task

TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "gradient_clip_val": 0.5,
    "max_epochs": -1,  # the task schedule ends the fit
    "num_sanity_val_steps": 0,  # before the first task there is no expert to validate
    "log_every_n_steps": 1,
    "enable_model_summary": False,  # it counts one module
    "use_distributed_sampler": False,  # it would score some test images twice
    "check_val_every_n_epoch": 10,  # for the curves only: no choice depends on it
}


def make_trainer(
    run: str | Path,
    epochs_per_task: int = 10,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:
    """Build Lightning's Trainer as the command does.

    It learns task after task, evaluates each, and writes `last.ckpt`, `tasks/`, `metrics.csv` and
    `report/` into the run folder.

    Args:
        run: The run folder.
        epochs_per_task: Epochs of each new task.
        false_alarm_rate: Share of good images that a threshold may call defective.
        callbacks: Further callbacks.
        options: Arguments of the Trainer; they replace those of the command.

    Example:
        `make_trainer("runs/mine").fit(model, data)`
    """
    own = [TaskSchedulerCallback(epochs_per_task, false_alarm_rate=false_alarm_rate)]
    kinds = {type(callback) for callback in callbacks}
    usual: list[Callback] = [
        kind() for kind in (EvaluationCallback, RunCheckpoint) if kind not in kinds
    ]
    if options.get("enable_progress_bar", True):
        usual += [] if any(issubclass(kind, ProgressBar) for kind in kinds) else [RunProgressBar()]
    defaults = {"default_root_dir": run, "logger": RunCurves(run), **TRAINER_DEFAULTS}
    ignore_warnings()
    with without_messages():  # about other products
        return Trainer(**{**defaults, **options, "callbacks": [*own, *callbacks, *usual]})


def add_product(
    model: MoLEFlow,
    name: str,
    folder: str | Path,
    run: str | Path = "runs/python",
    data: dict[str, Any] | None = None,
    **options: Any,
) -> Task:
    """Let a model learn one more product; what it has learned before does not change.

    Args:
        model: The model, new or with products that it has learned.
        name: Name of the product.
        folder: Folder of its good images, or of `train/good`, `test` and so on as in MVTec AD, with
            which it is also evaluated.
        run: The run folder, where checkpoints and the report go.
        data: Further arguments of `ContinualDataModule`, such as `batch_size` or `roi`.
        options: Arguments of `make_trainer`, such as `epochs_per_task`, and of the Trainer.

    Returns:
        The learned task, with its calibration.

    Raises:
        ConfigError: an argument has an invalid value.
        DataError: the model already knows the product, or the folder holds no images or unusable
            ones.

    Example:
        `add_product(model, "screw", "data/screw")`
    """
    check_name(name)
    layout = "mvtec" if (Path(folder).expanduser() / "train").is_dir() else "folder"
    schedule = model.schedule
    # tasks that were planned but never started are dropped
    schedule.tasks = [task for task in schedule.tasks if task.epochs_done]
    tasks: list[Any] = [list(task.products) for task in schedule.tasks]
    module = ContinualDataModule(
        {name: str(folder)}, [*tasks, name], **{"layout": layout, **(data or {})}
    )
    # before the model gets an expert for it
    module.check_images([len(tasks)])
    module.count_images([len(tasks)])
    make_trainer(run, **options).fit(model, datamodule=module)
    return schedule.tasks[-1]
