"""`<run>/last.ckpt`, from the first step on and after every epoch."""

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
    """Keeps `last.ckpt` in the run folder, always under that name."""

    def __init__(self) -> None:
        super().__init__(
            filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
        self._lock = RunLock(Path())  # of the folder that `setup` hears of

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write to the run folder itself, whatever the logger says."""
        self.dirpath = trainer.default_root_dir
        self._lock = RunLock(Path(self.dirpath))
        if stage == "fit" and trainer.is_global_zero and not is_trial(trainer):
            self._lock.acquire()
        super().setup(trainer, pl_module, stage)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let others write to the run folder."""
        self._lock.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let others write to the run folder; the newest checkpoint stays as it is."""
        self._lock.release()

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: there is one file, always of the same name."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave what another file says alone: Lightning would delete the path it calls its own."""

    def on_train_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Write where the run begins: from now on there is always something to go on from."""
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
        """Keep the epoch before where a limit cut this one: it is repeated when the fit goes on."""
        if not epoch_was_cut(trainer):
            super().on_train_epoch_end(trainer, pl_module)


def check_optimizer(optimizer: Optimizer, build: OptimizerCallable) -> None:
    """Refuse what a checkpoint put into an optimizer that could not have been in one.

    Args:
        optimizer: The optimizer, with what the checkpoint holds.
        build: Makes one like it, whose first step shows what such a state looks like.

    Raises:
        CheckpointError: a setting of another kind, or a state that is not of its parameter.
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
                "the checkpoint's optimizer is damaged: its state is not of its task"
            )


def same_parts(state: Any, usual: Mapping[str, Any]) -> bool:
    """Whether a parameter's state has the parts of another, each finite and of its shape."""
    if not isinstance(state, dict) or not set(usual) <= set(state):
        return False
    for key, part in usual.items():
        found = state[key]
        if isinstance(part, Tensor):
            if not isinstance(found, Tensor) or found.shape != part.shape:
                return False
            if not found.isfinite().all() or (found.ndim == 0 and found < 0):
                return False
        elif not same_kind(found, part):
            return False
    return True


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
