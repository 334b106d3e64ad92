"""The folder a run writes to: kept from a new run, and described by its `config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from moleflow_pl._internal.files import write_text


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
