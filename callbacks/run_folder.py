"""The folder a run writes to: kept from a new run, and described by its `config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from moleflow_pl.checkpoint import LAST, read_checkpoint, run_of
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.files import write_text, writing
from moleflow_pl.schedule import TaskSchedule
from moleflow_pl.state import STATE_KEY

RUN_FILES = ("config.yaml", LAST)


def free_name(path: Path) -> Path:
    """The first of `name~1`, `name~2`, … that is free; a file's suffix stays at the end."""
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while (other := path.with_name(f"{stem}~{number}{suffix}")).exists():
        number += 1
    return other


def move_aside(path: Path) -> Path:
    """Give a file or folder another name, and keep its own free for a new one.

    Returns:
        Where it is now.

    Raises:
        OutputError: it cannot be moved.
    """
    aside = free_name(path)
    with writing(aside):
        path.rename(aside)
    return aside


def epochs_done(checkpoint: Path) -> int:
    """Epochs behind a checkpoint; 0 where there is none that can be read."""
    try:
        tasks = read_checkpoint(checkpoint)[STATE_KEY]["tasks"]
    except CheckpointError:
        return 0
    return TaskSchedule.from_state(tasks).epochs_done


def check_writable(folder: Path) -> None:
    """Find out before a fit begins whether its folder takes files.

    Raises:
        OutputError: it does not.
    """
    probe = folder / ".writable"
    write_text(probe, "x")
    probe.unlink()


def prepare_run(folder: Path, checkpoint: Path | None, devices: int = 1) -> Path | None:
    """Make room for a fit; nothing is deleted.

    A fit that goes on where the folder's run is writes on in it, and its curves begin a new file.
    Any other, also one from an earlier task of that run, moves it aside, to `<folder>~1`.

    Returns:
        Where the checkpoint is now.

    Raises:
        ConfigError: the run that is in the way cannot be moved, or not with the checkpoint in it
            that several processes read.
    """
    inside = checkpoint is not None and run_of(checkpoint).resolve() == folder.resolve()
    behind = epochs_done(folder / LAST)
    if checkpoint is not None and inside and epochs_done(checkpoint) >= behind:
        keep_curves(folder)
        return checkpoint
    if not any((folder / name).exists() for name in RUN_FILES):
        return checkpoint
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{folder.resolve()} holds a run and cannot be moved aside from within: set "
            "trainer.default_root_dir to another folder"
        )
    if inside and devices > 1:
        raise ConfigError(
            f"{checkpoint} is of the run in {folder}, which goes on behind it: on several devices "
            "set trainer.default_root_dir to another folder"
        )
    root = folder.resolve()
    aside = move_aside(folder)
    print(f"the run that was in {folder} is now in {aside}")
    if checkpoint is None or not inside:
        return checkpoint
    return aside / checkpoint.resolve().relative_to(root)


def keep_curves(folder: Path) -> None:
    """Let the curves of a run that goes on begin a new file."""
    curves = folder / "metrics.csv"
    if curves.exists():
        move_aside(curves)


class RunConfig(SaveConfigCallback):
    """Tells the model all arguments of the command, and writes those of a fit to `config.yaml`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only a fit leaves a file; its checkpoints and every report say what was asked for."""
        # None is a value too (no clipping, no limit); jsonargparse has renamed the argument
        skip_none = False
        pl_module.run_config = self.parser.dump(self.config, "parser_mode", skip_none)
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, whatever the logger's folder is."""
        path = Path(trainer.default_root_dir) / self.config_filename
        write_text(path, str(pl_module.run_config))
