"""A callback that the tests of several devices give to the command."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class KeepRanks(Callback):
    """Saves every rank's tensors after each epoch and at the end, to `<run>/ranks`."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        keep(trainer, pl_module, f"epoch{trainer.current_epoch}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        keep(trainer, pl_module, "end")


def keep(trainer: Trainer, module: LightningModule, moment: str) -> None:
    folder = Path(trainer.default_root_dir) / "ranks"
    folder.mkdir(exist_ok=True)
    state = {key: value for key, value in module.state_dict().items() if "backbone" not in key}
    torch.save(state, folder / f"{moment}-{trainer.global_rank}.pt")
