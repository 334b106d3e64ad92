"""`<run>/last.ckpt`, after every epoch."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` in the run folder, always under that name."""

    def __init__(self) -> None:
        super().__init__(
            filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write to the run folder itself, whatever the logger says."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)
