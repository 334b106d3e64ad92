"""Stops a training that has gone wrong, before a weight is spoilt by it."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from moleflow_pl._internal.distributed import average, gather
from moleflow_pl.data.batches import Batch
from moleflow_pl.errors import TrainingError
from moleflow_pl.module import MoLEFlow

NAMED = 5  # files in a message


def check_finite(
    value: Tensor, what: str, trainer: Trainer, module: MoLEFlow, batch: Batch
) -> None:
    """Stop if a value () is NaN or infinite on any rank: all stop at the same step.

    Args:
        value: The loss, or the norm of the gradient.
        what: Which of them it is.
        trainer: The trainer.
        module: The model.
        batch: The batch it comes from.

    Raises:
        TrainingError: it is; the message says at which task, epoch and images.
    """
    if average(value.detach()).isfinite():
        return
    current = module.schedule.current
    assert current is not None
    task = module.schedule.tasks[current]
    names = [name for part in gather(nonfinite_images(module, batch, current)) for name in part]
    shown = ", ".join(names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise TrainingError(
        f"task {task.name!r}, epoch {task.epochs_done + 1} of {task.epochs}: the {what} is "
        f"{value.item()} at {shown}{more}. Nothing was learned from it, and last.ckpt in "
        f"{trainer.default_root_dir} holds the epoch before: look at these images, or lower the "
        "learning rate, and go on with --ckpt_path"
    )


@torch.no_grad()
def nonfinite_images(module: MoLEFlow, batch: Batch, task: int) -> list[str]:
    """The images of a batch whose own score is not finite; all of them, if it is none alone."""
    scores = module.learner.training_nll(batch, task).flatten(1).sum(1)
    broken = [p for p, score in zip(batch["path"], scores, strict=True) if not score.isfinite()]
    return broken or list(batch["path"])
