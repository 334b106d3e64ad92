"""`moleflow fit`, `validate`, `test` and `predict`: LightningCLI."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_loader
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl._internal.lightning_compat import CheckpointFirstCLI, while_restoring
from moleflow_pl.callbacks import (
    EvaluationCallback,
    PredictionWriter,
    RunCheckpoint,
    TaskSchedulerCallback,
)
from moleflow_pl.callbacks.curves import RunCurves
from moleflow_pl.callbacks.devices import check_devices, check_precision
from moleflow_pl.callbacks.run_checkpoint import WholeCheckpoints
from moleflow_pl.callbacks.run_config import RunConfig
from moleflow_pl.checkpoints.io import earlier, read_checkpoint, restoring
from moleflow_pl.checkpoints.resume import prepare_run
from moleflow_pl.checkpoints.run_folder import LAST, RunFolder
from moleflow_pl.cli.stored_arguments import stored_config
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.tasks.schedule import TaskSchedule

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs/moleflow",
    "devices": 1,
    "gradient_clip_val": 0.5,
    "max_epochs": -1,  # the task schedule says when the fit is over
    "num_sanity_val_steps": 0,  # there is no expert to validate yet
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,  # it would score some test images twice
    "check_val_every_n_epoch": 10,  # a curve to look at; nothing is chosen by it
}
DESCRIPTION = "Learn to inspect one product after another, and use what was learned."


class PlainLoader(yaml.SafeLoader):
    """Safe YAML that reads `1e-4` as a number too."""


PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
TASKS = "tasks"
TEXT = "tag:yaml.org,2002:str"


def load_yaml(text: str) -> Any:
    """Read YAML, all below a key `tasks` as text: products called `01`, `1.0` or `no` keep it.

    Example:
        >>> load_yaml("{data: {tasks: [01, no, [1.0, b]]}, model: {rank: 2, on: no}}")["data"]
        {'tasks': ['01', 'no', ['1.0', 'b']]}
        >>> load_yaml("1e-4")
        0.0001
    """
    loader = PlainLoader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    keep_names(node)
    return loader.construct_document(node)


def keep_names(node: yaml.Node, names: bool = False) -> None:
    """Mark every scalar below a key `tasks` as text."""
    if isinstance(node, yaml.ScalarNode) and names:
        node.tag = TEXT
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            keep_names(item, names)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            keep_names(value, names or key.value == TASKS)


def quote_tasks(args: Sequence[str]) -> list[str]:
    """The same for `--data.tasks` on the command line, whose value comes without its key.

    Example:
        >>> quote_tasks(["--data.tasks", "[01, no]", "--data.root=x"])
        ['--data.tasks', '["01", "no"]', '--data.root=x']
    """
    name = f"--data.{TASKS}"
    quoted = list(args)
    for i, arg in enumerate(quoted):
        before = quoted[i - 1] if i else ""
        if before == name:
            quoted[i] = quoted_list(arg)
        elif arg.startswith(f"{name}="):
            quoted[i] = f"{name}={quoted_list(arg.removeprefix(f'{name}='))}"
    return quoted


def quoted_list(text: str) -> str:
    """A YAML list with every name in quotes; other text as it is."""
    try:
        value = yaml.load(text, Loader=yaml.BaseLoader)  # no scalar is more than text to it
    except yaml.YAMLError:
        return text
    return json.dumps(value) if isinstance(value, list) else text


def long_product(args: Sequence[str]) -> list[str]:
    """The short `--product` of `predict` by its full name.

    Example:
        >>> long_product(["predict", "--product=a", "--productive"])
        ['predict', '--predictions.product=a', '--productive']
    """
    return [re.sub(r"^--product(?==|$)", "--predictions.product", arg) for arg in args]


set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))


class MoLEFlowCLI(CheckpointFirstCLI):
    """LightningCLI for the one model and the one data module, with the run folder looked after."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(TaskSchedulerCallback, "schedule")
        parser.add_lightning_class_args(EvaluationCallback, "evaluation")
        parser.add_lightning_class_args(PredictionWriter, "predictions")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        args = long_product(quote_tasks(sys.argv[1:] if args is None else args))
        path = option(args, "--ckpt_path")
        self.missing: Path | None = None
        self.content: dict[str, Any] | None = None  # of the checkpoint, which is read once
        if path is not None and args[0] in self.subcommands():
            if args[0] == "fit" and never_written(Path(path)):
                args, self.missing = without(args, "--ckpt_path"), Path(path)
            else:
                self.content = read_checkpoint(Path(path), mmap=False)
                args[1:1] = ["--config", stored_config(Path(path), self.content, args[0])]
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        trainer = self._get(self.config, "trainer")
        if self.missing is not None:
            begin_anew(self.missing, Path(trainer.default_root_dir))
        limit = trainer.max_epochs
        if limit not in (None, -1):
            raise ConfigError(
                f"trainer.max_epochs {limit}: leave it out, and set schedule.epochs_per_task"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        if trainer.logger is None:
            # only a fit has curves; a logger of `test` would wipe them
            fit = self.subcommand == "fit"
            kwargs["logger"] = RunCurves(trainer.default_root_dir) if fit else False
        made = super().instantiate_trainer(**kwargs)
        check_devices(made)  # before Lightning starts a process for each
        check_precision(made)
        return made

    def before_fit(self) -> None:
        """Look before leaping: nothing is moved or written unless the fit can begin."""
        path = self._get(self.config, "ckpt_path")
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
        if self.missing is None:
            devices = self.trainer.world_size
            self.checkpoint = prepare_run(folder, self.checkpoint, self.content, devices)
        else:
            RunFolder(folder).move_curves_aside()
        RunFolder(folder).check_writable()

    def trainer_arguments(self, subcommand: str) -> dict[str, Any]:
        kwargs = super().trainer_arguments(subcommand)
        if subcommand == "fit":
            kwargs["ckpt_path"] = self.checkpoint
        path = kwargs.get("ckpt_path")
        if path is not None:
            handed_on = WholeCheckpoints(Path(path), self.content)
            self.trainer.strategy.checkpoint_io, self.content = handed_on, None
        if subcommand == "predict":
            # the rows are written as they come; kept, they would fill the memory
            kwargs["return_predictions"] = False
        return kwargs


def option(args: Sequence[str], name: str) -> str | None:
    """Value of an option in a list of arguments, the last one given.

    Example:
        >>> option(["fit", "--ckpt_path=a", "--ckpt_path", "b"], "--ckpt_path")
        'b'
    """
    value = None
    for i, arg in enumerate(args):
        if arg == name and i + 1 < len(args):
            value = args[i + 1]
        elif arg.startswith(name + "="):
            value = arg.removeprefix(name + "=")
    return value


def without(args: Sequence[str], name: str) -> list[str]:
    """The arguments less an option and its value.

    Example:
        >>> without(["fit", "--ckpt_path=a", "--ckpt_path", "b", "--x"], "--ckpt_path")
        ['fit', '--x']
    """
    kept = [arg for i, arg in enumerate(args) if not (i and args[i - 1] == name)]
    return [arg for arg in kept if arg != name and not arg.startswith(name + "=")]


def never_written(checkpoint: Path) -> bool:
    """Whether a run was perhaps stopped before it wrote its first checkpoint."""
    return checkpoint.name == LAST and not checkpoint.exists() and earlier(checkpoint) is None


def begin_anew(checkpoint: Path, folder: Path) -> None:
    """Say that a fit begins where it would have gone on.

    Raises:
        CheckpointError: the file that is not there is that of another run.
    """
    if RunFolder.of(checkpoint).root.resolve() != folder.resolve():
        raise CheckpointError(f"no checkpoint at {checkpoint}")
    rank_zero_info(f"no checkpoint at {checkpoint} yet: the run begins anew")


def build(args: list[str] | None = None, kind: type[MoLEFlowCLI] = MoLEFlowCLI) -> MoLEFlowCLI:
    """Parse the arguments (those of the process by default) and run what they ask for."""
    return kind(
        MoLEFlow,
        ContinualDataModule,
        save_config_callback=RunConfig,
        trainer_defaults={**TRAINER_DEFAULTS, "callbacks": [RunCheckpoint()]},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"description": DESCRIPTION},
        args=args,
    )


def main(args: Sequence[str]) -> None:
    """Run one of LightningCLI's verbs."""
    # the backbone is meant to be in eval mode; the other is between Lightning and torch
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # what is logged is every rank's mean already
    warnings.filterwarnings("ignore", message=r"It is recommended to use .*sync_dist=True")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
    try:
        build(list(args))
    except Exception as error:
        path = option(args, "--ckpt_path")
        if path is None or not while_restoring(error):
            raise
        with restoring(path):
            raise
