"""Stops a training whose numbers are not finite, before the step changes a weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from moleflow_pl._internal.distributed import average, gather
from moleflow_pl.data.batches import Batch
from moleflow_pl.errors import TrainingError
from moleflow_pl.module import MoLEFlow

NAMED = 5  # files to name in a message


def check_finite(
    losses: Sequence[tuple[Tensor, Batch]], norm: Tensor | None, trainer: Trainer, module: MoLEFlow
) -> None:
    """Stop all ranks at the same step if a loss or the gradient is not finite on any rank.

    All numbers of a step are checked together, since each check makes the host wait for the GPU.

    Args:
        losses: The losses () since the last step, each with its batch.
        norm: Norm of the gradient; None if it may be infinite.
        trainer: The trainer.
        module: The model.

    Raises:
        TrainingError: a number is not finite; the message names task, epoch and images.
    """
    values = [loss.detach() for loss, _ in losses] + ([] if norm is None else [norm])
    finite = average(torch.stack([value.float() for value in values])).isfinite()
    if finite.all():
        return
    first = finite.tolist().index(False)
    what = "loss" if first < len(losses) else "gradient"
    batch = losses[min(first, len(losses) - 1)][1]
    current = module.schedule.current
    assert current is not None
    task = module.schedule.tasks[current]
    names = [name for part in gather(nonfinite_images(module, batch, current)) for name in part]
    shown = ", ".join(names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise TrainingError(
        f"task {task.name!r}, epoch {task.epochs_done + 1} of {task.epochs}: the {what} is "
        f"{values[first].item()} at {shown}{more}. Nothing was learned from it, and last.ckpt in "
        f"{trainer.default_root_dir} holds the epoch before: check these images, or lower the "
        "learning rate, and resume with --ckpt_path"
    )


@torch.no_grad()
def nonfinite_images(module: MoLEFlow, batch: Batch, task: int) -> list[str]:
    """The images of a batch whose loss is not finite; all images if every loss is finite."""
    scores = module.learner.training_nll(batch, task).flatten(1).sum(1)
    broken = [p for p, score in zip(batch["path"], scores, strict=True) if not score.isfinite()]
    return broken or list(batch["path"])
