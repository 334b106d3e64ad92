"""Every private attribute of Lightning that the packages use.

Each has a test of its own; setup.cfg pins Lightning below its next minor version.
"""

from __future__ import annotations

import traceback
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

# for `load_from_checkpoint`: build this class, import nothing that the file names
WITHOUT_IMPORTS: dict[str, Any] = {"weights_only": True, "_instantiator": None}


def starts_scripts(trainer: Trainer) -> bool:
    """Whether Lightning runs the command again for each device, as `ddp` does."""
    return isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)


def replaces_samplers(trainer: Trainer) -> bool:
    """Whether Lightning replaces a loader's sampler by a `DistributedSampler`."""
    return trainer._accelerator_connector.use_distributed_sampler


def while_restoring(error: BaseException) -> bool:
    """Whether an error comes from what Lightning reads in a checkpoint."""
    return any(
        frame.filename.endswith("checkpoint_connector.py")
        and frame.name.lstrip("_").startswith(("restore", "resume"))
        for frame in traceback.extract_tb(error.__traceback__)
    )


class Utf8Files(LocalFileSystem):
    """A local file system that reads and writes text as UTF-8."""

    def open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
        return super().open(path, mode, *args, **{**text, **options})


def in_utf8(writer: Any) -> Any:
    """Make the writer of a `CSVLogger` write UTF-8, and return it."""
    if not isinstance(writer._fs, Utf8Files):
        writer._fs = Utf8Files()
    return writer


class CheckpointFirstCLI(LightningCLI):
    """LightningCLI whose command line overrides the arguments stored in a checkpoint.

    Lightning does the reverse, silently.
    """

    def _parse_ckpt_path(self) -> None:
        """Leave the parsed arguments as they are."""

    def parsed(self, key: str) -> Any:
        """The value of a top-level argument of the subcommand: a number, text or a namespace."""
        return self._get(self.config, key)

    def built(self, key: str) -> Any:
        """The same as `parsed`, with the classes in it already built."""
        return self._get(self.config_init, key)

    def verb_parser(self, subcommand: str) -> LightningArgumentParser:
        """The parser of a subcommand's arguments."""
        return self._parser(subcommand)

    def trainer_arguments(self, subcommand: str) -> dict[str, Any]:
        """Arguments for the trainer's method of a subcommand; a subclass may add to them."""
        return super()._prepare_subcommand_kwargs(subcommand)

    def run_subcommand(self, subcommand: str) -> None:
        """Run a subcommand with the hooks before and after it; a subclass may wrap it."""
        super()._run_subcommand(subcommand)

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return self.trainer_arguments(subcommand)
