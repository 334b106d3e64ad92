"""`moleflow fit`, `validate`, `test` and `predict`, by LightningCLI."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import set_loader
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl._internal.console import print_table
from moleflow_pl._internal.files import require_folder
from moleflow_pl._internal.lightning_compat import CheckpointFirstCLI, while_restoring
from moleflow_pl._internal.lightning_messages import ignore_messages, ignore_warnings
from moleflow_pl._internal.steps import Show, bar_per_step, no_bar, showing_steps
from moleflow_pl.callbacks import (
    EvaluationCallback,
    PredictionWriter,
    RunCheckpoint,
    TaskSchedulerCallback,
)
from moleflow_pl.callbacks.curves import RunCurves
from moleflow_pl.callbacks.devices import check_devices, check_precision
from moleflow_pl.callbacks.other_callbacks import check_callbacks
from moleflow_pl.callbacks.prediction_state import check_place
from moleflow_pl.callbacks.progress import blocking_limits, is_trial, progress, require_batches
from moleflow_pl.callbacks.run_bar import RunProgressBar
from moleflow_pl.callbacks.run_config import RunConfig
from moleflow_pl.callbacks.trainers import TRAINER_DEFAULTS
from moleflow_pl.checkpoints.io import earlier, read_checkpoint, restoring
from moleflow_pl.checkpoints.lightning_io import State, WholeCheckpoints, file_state
from moleflow_pl.checkpoints.resume import prepare_run, require_free
from moleflow_pl.checkpoints.run_folder import LAST, RunFolder
from moleflow_pl.checkpoints.run_lock import RunLock
from moleflow_pl.cli import presets
from moleflow_pl.cli.arguments import expand_product, option, without
from moleflow_pl.cli.config_values import SAFE_OPTION, ConfigValues
from moleflow_pl.cli.help import ALL_GROUPS
from moleflow_pl.cli.mistakes import Mistake, explain, options_of
from moleflow_pl.cli.stopping import stopped_by
from moleflow_pl.cli.stored_arguments import stored_config
from moleflow_pl.cli.trainer_options import check_options, check_seed, refused_value
from moleflow_pl.cli.validation import validation_table
from moleflow_pl.cli.yaml_names import quote_tasks
from moleflow_pl.errors import CheckpointError, ConfigError, StoppedError
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)

DESCRIPTION = "Learn to inspect one product after another, and inspect images with the result."


class Parser(LightningArgumentParser):
    """A parser that raises its errors, instead of printing all options and exiting."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error.

        Raises:
            Mistake: the command line is wrong; an error in the arguments of a class is passed on.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise Mistake(message) from ex


class MoLEFlowCLI(CheckpointFirstCLI):
    """LightningCLI for this model and data module, which also manages the run folder."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(**{"allow_abbrev": False, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(TaskSchedulerCallback, "schedule")
        parser.add_lightning_class_args(EvaluationCallback, "evaluation")
        parser.add_lightning_class_args(PredictionWriter, "predictions")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        args = sys.argv[1:] if args is None else args
        values = ConfigValues(safe=SAFE_OPTION in args)
        set_loader("yaml", values.load, exceptions=(yaml.YAMLError,))
        args = [word for word in args if word != SAFE_OPTION]
        args = presets.resolve(expand_product(quote_tasks(args)))
        path = option(args, "--ckpt_path")
        self.missing: Path | None = None
        self.content: dict[str, Any] | None = None  # contents of the checkpoint, read once
        self.state: State | None = None  # of the checkpoint's file
        if path is not None and args[0] in self.subcommands():
            if args[0] == "fit" and has_no_checkpoint_yet(Path(path)):
                args, self.missing = without(args, "--ckpt_path"), Path(path)
            else:
                self.state = file_state(Path(path))
                self.content = read_checkpoint(Path(path), mmap=False)
                args[1:1] = ["--config", stored_config(Path(path), self.content, args[0])]
        try:
            with values.checked(args):
                self.config = parser.parse_args(args)
                values.check_parsed(self.config.as_dict())
        except Mistake as error:
            known = options_of(self.verb_parser(args[0]).format_usage())
            message = explain(str(error), f"moleflow {args[0]}", known, f" {ALL_GROUPS}")
            raise ConfigError(message) from error
        check_seed(self.config[f"{self.config.subcommand}.seed_everything"])

    def before_instantiate_classes(self) -> None:
        trainer = self.parsed("trainer")
        check_options(trainer)
        self.check_folder(RunFolder(Path(trainer.default_root_dir)))
        if self.missing is not None:
            report_new_start(self.missing, Path(trainer.default_root_dir))

    def check_folder(self, run: RunFolder) -> None:
        """Check the folder that a verb writes to before any work, and before a lock file is in it.

        Raises:
            OutputError: the path is not a folder, or the folder for predictions holds other files.
        """
        if self.subcommand == "predict":
            given = self.parsed("predictions").folder
            check_place(Path(given).expanduser() if given else run.predictions)
        elif self.subcommand in ("fit", "test"):
            require_folder(run.root if self.subcommand == "fit" else run.report)

    def instantiate_classes(self) -> None:
        """Build model, data module and Trainer.

        Raises:
            ConfigError: an option of the Trainer is invalid, or a package is missing.
        """
        try:
            super().instantiate_classes()
        except Exception as error:
            missing, refused = missing_package(error), refused_value(error)
            if missing is None and refused is not None:
                raise ConfigError(f"a class of this command cannot be built: {refused}") from error
            if missing is None:
                raise
            raise ConfigError(
                f"a class of this command needs a package: {missing}; install it"
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self.built("trainer")
        if trainer.logger is None:
            # only a fit has curves; validation would replace them
            fit = self.subcommand == "fit"
            kwargs["logger"] = RunCurves(trainer.default_root_dir) if fit else False
        kwargs["callbacks"] = self.callbacks_with_bar(trainer)
        try:
            built = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise ConfigError(f"the Trainer's options are invalid: {error}") from error
        check_devices(built)  # before Lightning starts a process for each device
        check_precision(built)
        require_batches(built, self.subcommand)
        if self.subcommand == "fit":
            check_callbacks(built)
        return built

    def callbacks_with_bar(self, trainer: Any) -> list[Any]:
        """The requested callbacks, and the run's bar unless another or none is requested."""
        given = trainer.callbacks or []
        callbacks = list(given) if isinstance(given, (list, tuple)) else [given]
        self.show: Show = bar_per_step
        if trainer.enable_progress_bar is False:
            self.show = no_bar
        elif not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(RunProgressBar())
            self.show = callbacks[-1].step
        return callbacks

    def run_subcommand(self, subcommand: str) -> None:
        """Run a verb as the only writer of its folder; report the progress of a stopped fit."""
        self.lock = RunLock(self.folder_to_write())
        try:
            if subcommand in ("test", "predict") and self.writes:
                self.lock.acquire()
            with showing_steps(self.show):
                super().run_subcommand(subcommand)
        except (KeyboardInterrupt, SystemExit, BrokenPipeError, RuntimeError) as error:
            stopped = stopped_by(error, progress(self.model.schedule))
            if stopped is None or subcommand != "fit":
                raise
            stopped.changes = self.changes_to_resume()
            raise stopped from error
        except MisconfigurationException as error:  # such as a share of less than one batch
            raise ConfigError(f"the Trainer's options are invalid: {error}") from error
        finally:
            self.lock.release()

    def folder_to_write(self) -> Path:
        """The run folder, or the output folder given to `predict`."""
        options = self.parsed("predictions")
        given = getattr(options, "folder", None) if self.subcommand == "predict" else None
        return Path(given or self.trainer.default_root_dir).expanduser()

    @property
    def writes(self) -> bool:
        """Whether this process writes results: only the first of several, and not in a trial."""
        return self.trainer.is_global_zero and not is_trial(self.trainer)

    def after_validate(self) -> None:
        """Print the results in place of Lightning's table, which would truncate names."""
        if self.trainer.is_global_zero:
            print_table(validation_table(self.model.schedule, self.trainer.callback_metrics))

    def after_fit(self) -> None:
        """Raise an error for a fit that a limit ended.

        Raises:
            StoppedError: not all tasks are learned.
        """
        schedule = self.model.schedule
        if is_trial(self.trainer):
            raise StoppedError(
                "this was a trial, nothing was saved", changes=self.changes_to_resume()
            )
        if schedule.todo:
            raise StoppedError(progress(schedule), changes=self.changes_to_resume())

    def changes_to_resume(self) -> dict[str, str]:
        """Options with which a stopped fit resumes."""
        changes = blocking_limits(self.trainer)
        if not is_trial(self.trainer):
            last = RunFolder(Path(self.trainer.default_root_dir)).last
            changes["--ckpt_path"] = str(last)
        return changes

    def before_fit(self) -> None:
        """Check that the fit can begin before anything is moved or written."""
        path = self.parsed("ckpt_path")
        self.checkpoint = None if path is None else Path(path)
        schedule = TaskSchedule()
        if self.content is not None:
            state = self.model.validate_checkpoint(self.content)
            schedule = TaskSchedule.from_state(state["tasks"])
        todo = schedule.replanned(self.datamodule.groups, epochs=1).todo
        folder = Path(self.trainer.default_root_dir)
        if not self.trainer.is_global_zero:
            return
        self.datamodule.check_images(todo)
        self.datamodule.count_images(todo)
        if self.writes:
            self.model.inspector.extractor.require_maps()
            self.begin_run(folder)

    def begin_run(self, folder: Path) -> None:
        """Clear and lock the run folder, so that no other command moves it or writes to it."""
        # the folder may be moved: without a file that names this command as the holder
        with RunLock(folder, noted=False) if folder.exists() else nullcontext():
            if self.missing is None:
                devices = self.trainer.world_size
                self.checkpoint = prepare_run(folder, self.checkpoint, self.content, devices)
            else:
                require_free(RunFolder(folder))
            RunFolder(folder).move_curves_aside()  # fails now if it cannot be done
        self.lock.acquire()
        RunFolder(folder).check_writable()

    def trainer_arguments(self, subcommand: str) -> dict[str, Any]:
        kwargs = super().trainer_arguments(subcommand)
        if subcommand == "fit":
            kwargs["ckpt_path"] = self.checkpoint
        path = kwargs.get("ckpt_path")
        if path is not None:
            checkpoints = WholeCheckpoints(Path(path), self.content, self.state)
            self.trainer.strategy.checkpoint_io, self.content = checkpoints, None
        if subcommand == "validate":
            kwargs["verbose"] = False
        if subcommand == "predict":
            # PredictionWriter writes each batch; a list of all needs too much memory
            kwargs["return_predictions"] = False
        return kwargs


def missing_package(error: BaseException) -> str | None:
    """First line of a failed import's message; the parser wraps it in an error of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ImportError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return str(cause).partition("\n")[0]
    # for a value of several types, jsonargparse before 4.49 chains only the first one's error
    match = re.search(r"(Requirement '|No module named |Neither `).*", str(error))
    return match and match[0]


def has_no_checkpoint_yet(checkpoint: Path) -> bool:
    """Return whether a run may have been stopped before it wrote its first checkpoint."""
    # os.path: a name that is too long for the disk is not there either
    missing = not os.path.exists(checkpoint)
    return checkpoint.name == LAST and missing and earlier(checkpoint) is None


def report_new_start(checkpoint: Path, folder: Path) -> None:
    """Report that a fit starts from the beginning, because there is no checkpoint yet.

    Raises:
        CheckpointError: the missing checkpoint belongs to another run folder.
    """
    # os.path: a link that leads back to itself is another folder, not a failure
    if os.path.realpath(RunFolder.of(checkpoint).root) != os.path.realpath(folder):
        raise CheckpointError(
            f"no checkpoint at {checkpoint}: give the run folder {folder}, or a .ckpt file in it"
        )
    logger.info(f"no checkpoint at {checkpoint} yet: the run starts from the beginning")


def build(args: list[str] | None = None, kind: type[MoLEFlowCLI] = MoLEFlowCLI) -> MoLEFlowCLI:
    """Parse the arguments, by default those of the process, and run their verb."""
    return kind(
        MoLEFlow,
        ContinualDataModule,
        save_config_callback=RunConfig,
        trainer_defaults={
            **TRAINER_DEFAULTS,
            "default_root_dir": "runs/moleflow",
            "callbacks": [RunCheckpoint()],
        },
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"description": DESCRIPTION},
        parser_class=Parser,
        args=args,
    )


def main(args: Sequence[str]) -> None:
    """Run one of LightningCLI's verbs.

    Args:
        args: The verb and its options.
    """
    ignore_warnings()
    ignore_messages()
    try:
        build(list(args))
    except Exception as error:
        path = option(args, "--ckpt_path")
        if path is None or not while_restoring(error):
            raise
        with restoring(path):
            raise
