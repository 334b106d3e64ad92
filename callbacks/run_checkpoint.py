"""`<run>/last.ckpt`, from the first step on and after every epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from moleflow_pl.checkpoint import LAST, read_checkpoint, write_checkpoint
from moleflow_pl.errors import CheckpointError


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and read without running their code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write by way of a file beside it."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain data, whatever the caller would allow."""
        # into memory: the file may change while its tensors are in use
        return read_checkpoint(Path(path), mmap=False)


def use_whole_checkpoints(trainer: Trainer) -> None:
    """Let a trainer write and read by `WholeCheckpoints`, unless it has a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()


class RunCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` in the run folder, always under that name."""

    def __init__(self) -> None:
        super().__init__(
            filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write to the run folder itself, whatever the logger says."""
        self.dirpath = trainer.default_root_dir
        use_whole_checkpoints(trainer)
        super().setup(trainer, pl_module, stage)

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: there is one file, always of the same name."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave what another file says alone: Lightning would delete the path it calls its own."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write where the run begins: from now on there is always something to go on from."""
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path is not None:
            for optimizer in trainer.optimizers:
                check_optimizer(optimizer)
        path = Path(trainer.default_root_dir) / LAST
        if trainer.ckpt_path is None or not trainer.strategy.broadcast(path.exists()):
            trainer.save_checkpoint(path, weights_only=False)


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse what a checkpoint put into an optimizer that could not have been in one.

    Raises:
        CheckpointError: a setting of another kind than the optimizer's own, or a state that is
            not of its parameter.
    """
    usual = {**optimizer.defaults, "initial_lr": 0.0}
    for group in optimizer.param_groups:
        for key, value in usual.items():
            if not same_kind(group.get(key, "nothing"), value):
                told = f"{key}: expected the like of {value!r}, found {group.get(key)!r:.40}"
                raise CheckpointError(f"the checkpoint's optimizer is damaged: {told}")
    whole = [
        (parameter, state)
        for parameter, state in optimizer.state.items()
        if isinstance(parameter, Tensor) and isinstance(state, dict)
    ]
    fits = [of_parameter(part, param) for param, state in whole for part in state.values()]
    names = {frozenset(state) for _, state in whole}
    if len(whole) < len(optimizer.state) or len(names) > 1 or not all(fits):
        raise CheckpointError("the checkpoint's optimizer is damaged: its state is not of its task")


def of_parameter(part: Any, parameter: Tensor) -> bool:
    """Whether a part of a state can be of a parameter: nothing, its like or a count."""
    if not isinstance(part, Tensor):
        return part is None
    like = part.shape == parameter.shape or (part.ndim == 0 and bool(part >= 0))
    return like and bool(part.isfinite().all())


def same_kind(value: Any, usual: Any) -> bool:
    """Whether a setting of an optimizer is of the kind of its default.

    Example:
        >>> same_kind(0.1, 1e-3), same_kind((0.9, 0.99), (0.9, 0.999)), same_kind("x", 1e-3)
        (True, True, False)
    """
    if usual is None or isinstance(usual, bool):
        return value is None or isinstance(value, bool)
    if isinstance(usual, (list, tuple)):
        alike = isinstance(value, (list, tuple)) and len(value) == len(usual)
        return alike and all(map(same_kind, value, usual))
    if isinstance(usual, (int, float)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return True
