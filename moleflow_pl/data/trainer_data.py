"""The data module of a Trainer."""

from __future__ import annotations

from lightning.pytorch import Trainer

from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.errors import ConfigError


def data_of(trainer: Trainer) -> ContinualDataModule:
    """The data module of a Trainer.

    Raises:
        ConfigError: the data module is missing, or not a `ContinualDataModule`.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ContinualDataModule):
        raise ConfigError(
            f"tasks are learned from a ContinualDataModule, got {type(data).__name__}: call "
            "trainer.fit(model, datamodule=ContinualDataModule(...))"
        )
    return data
