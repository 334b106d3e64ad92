"""Writes `<run>/last.ckpt` at the start of a fit and after every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from moleflow_pl.callbacks.progress import epoch_was_cut, is_trial
from moleflow_pl.checkpoints.run_folder import LAST, RunFolder
from moleflow_pl.checkpoints.run_lock import RunLock
from moleflow_pl.errors import CheckpointError
from moleflow_pl.module import MoLEFlow


class RunCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt` in the run folder, always under that name."""

    def __init__(self) -> None:
        super().__init__(
            filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
        self._lock = RunLock(Path())  # replaced in `setup`, which knows the folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write to the run folder itself, not to the logger's."""
        self.dirpath = trainer.default_root_dir
        self._lock = RunLock(Path(self.dirpath))
        if stage == "fit" and trainer.is_global_zero and not is_trial(trainer):
            RunFolder(Path(self.dirpath)).check_folders()
            self._lock.acquire()
        super().setup(trainer, pl_module, stage)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the run folder."""
        self._lock.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Release the run folder; the newest checkpoint stays as it is."""
        self._lock.release()

    def state_dict(self) -> dict[str, Any]:
        """Save no state: there is one file, always with the same name."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the saved state: Lightning would delete the file that it names."""

    def on_train_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Write a first checkpoint, so that a fit can always be resumed."""
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path is not None:
            for optimizer in trainer.optimizers:
                check_optimizer(optimizer, pl_module.optimizer)
        if is_trial(trainer):
            return
        path = RunFolder(Path(trainer.default_root_dir)).last
        if trainer.ckpt_path is None or not trainer.strategy.broadcast(path.exists()):
            trainer.save_checkpoint(path, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last checkpoint if a limit cut this epoch, which a resumed fit repeats."""
        if not epoch_was_cut(trainer):
            super().on_train_epoch_end(trainer, pl_module)


def check_optimizer(optimizer: Optimizer, build: OptimizerCallable) -> None:
    """Raise an error for an optimizer state in a checkpoint that no optimizer could have.

    Args:
        optimizer: The optimizer, with the state of the checkpoint.
        build: Builds a similar optimizer, whose first step shows what a valid state looks like.

    Raises:
        CheckpointError: a setting has the wrong type, or a state does not fit its parameter.
    """
    own = [p for group in optimizer.param_groups for p in group["params"]]
    clones = [torch.zeros_like(parameter, requires_grad=True) for parameter in own]
    for clone in clones:
        clone.grad = torch.zeros_like(clone)
    like = build(clones)
    like.step(lambda: 0.0)
    for group in optimizer.param_groups:
        for key, usual in {**like.param_groups[0], "initial_lr": 0.0}.items():
            if key != "params" and not same_kind(group.get(key, "nothing"), usual):
                reason = f"{key}: expected a value like {usual!r}, found {group.get(key)!r:.40}"
                raise CheckpointError(f"the checkpoint's optimizer is damaged: {reason}")
    known = dict(zip(own, (like.state[clone] for clone in clones), strict=True))
    for parameter, state in optimizer.state.items():
        if parameter not in known or not same_parts(state, known[parameter]):
            raise CheckpointError(
                "the checkpoint's optimizer is damaged: its state does not fit its task; use an "
                "earlier checkpoint"
            )


def same_parts(state: Any, usual: Mapping[str, Any]) -> bool:
    """Whether a parameter's state has the same entries as another, finite and of equal shape."""
    if not isinstance(state, dict) or not set(usual) <= set(state):
        return False
    for key, part in usual.items():
        value = state[key]
        if isinstance(part, Tensor):
            if not isinstance(value, Tensor) or value.shape != part.shape:
                return False
            if not value.isfinite().all() or (value.ndim == 0 and value < 0):
                return False
        elif not same_kind(value, part):
            return False
    return True


def same_kind(value: Any, usual: Any) -> bool:
    """Whether a setting of an optimizer has the type of its default.

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
