"""Writes the arguments of a fit to `<run>/config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from moleflow_pl._internal.files import write_text


class RunConfig(SaveConfigCallback):
    """Stores the command's arguments in the model, and writes those of a fit to a file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store the arguments for checkpoints and reports; only a fit also writes a file."""
        # None is a value too (no clipping, no limit); jsonargparse has renamed the argument
        skip_none = False
        pl_module.run_config = self.parser.dump(self.config, "parser_mode", skip_none)
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file to the run folder, not to the logger's."""
        path = Path(trainer.default_root_dir) / self.config_filename
        write_text(path, str(pl_module.run_config))
