"""The folder a run writes to: kept from a new run, and described by its `config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from moleflow_pl.errors import ConfigError
from moleflow_pl.report import write_text

RUN_FILES = ("config.yaml", "last.ckpt")


def run_of(checkpoint: Path) -> Path:
    """The run folder a checkpoint lies in.

    Example:
        >>> run_of(Path("runs/demo/tasks/00-a.ckpt")) == run_of(Path("runs/demo/last.ckpt"))
        True
    """
    folder = checkpoint.parent
    return folder.parent if folder.name == "tasks" else folder


def free_name(path: Path) -> Path:
    """The first of `name~1`, `name~2`, … that is free; a file's suffix stays at the end."""
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while (other := path.with_name(f"{stem}~{number}{suffix}")).exists():
        number += 1
    return other


def prepare_run(folder: Path, checkpoint: Path | None) -> None:
    """Make room for a fit; nothing is deleted.

    A fit that goes on from a checkpoint of the folder writes on in it, and its curves begin a new
    file. Any other moves the run that is there aside, to `<folder>~1`.

    Raises:
        ConfigError: the run that is in the way cannot be moved.
    """
    if checkpoint is not None and run_of(checkpoint).resolve() == folder.resolve():
        curves = folder / "metrics.csv"
        if curves.exists():
            curves.rename(free_name(curves))
        return
    if not any((folder / name).exists() for name in RUN_FILES):
        return
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{folder.resolve()} holds a run and cannot be moved aside from within: set "
            "trainer.default_root_dir to another folder"
        )
    aside = free_name(folder)
    folder.rename(aside)
    print(f"the run that was in {folder} is now in {aside}")


class RunConfig(SaveConfigCallback):
    """Writes the resolved `config.yaml` of a fit, and hands it to the model for its checkpoints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only a fit has a config to keep."""
        if stage == "fit":
            # None is a value too (no clipping, no limit); jsonargparse has renamed the argument
            skip_none = False
            pl_module.run_config = self.parser.dump(self.config, "parser_mode", skip_none)
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, whatever the logger's folder is."""
        path = Path(trainer.default_root_dir) / self.config_filename
        write_text(path, str(pl_module.run_config))
