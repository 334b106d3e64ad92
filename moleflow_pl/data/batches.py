"""Typed batches, and checks of batches from other loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from moleflow_pl.errors import DataError


class Identity(NamedTuple):
    """Identifies an image file and its contents at one moment.

    Attributes:
        path: Its absolute path, escaped as in tables.
        size: Bytes.
        modified: Modification time in nanoseconds.
        digest: Hash of its content.
    """

    path: str
    size: int
    modified: int
    digest: str


class Batch(TypedDict, total=False):
    """Images of one task, or their stored features.

    Attributes:
        task: Number of the task of each image, long (B,).
        gt_label: 1 for a defective image, long (B,).
        path: Files of the images, B.
        product: Products they show, B.
        defect: Kinds of defect, `good` for none, B.
        image: (B, 3, H, W), uint8.
        gt_mask: Masks (H', W') at their own size, B; None for a product without masks.
        features: (B, h, w, D), or (B, n, D) of the drawn patches.
        patches: Row-major indices of the drawn patches in the grid, long (B, n).
        grid: Height and width (h, w) of the grid that the drawn patches come from.
    """

    task: Tensor
    gt_label: Tensor
    path: list[str]
    product: list[str]
    defect: list[str]
    image: Tensor
    gt_mask: list[Tensor | None]
    features: Tensor
    patches: Tensor
    grid: tuple[int, int]


class PredictBatch(TypedDict):
    """Images of unknown products; B may be 0.

    Attributes:
        image: (B, 3, H, W), uint8.
        path: Files of the images, B.
        size: Height and width of each image in its file, B.
        identity: Identities of the files, B.
        preview: Small copies (H', W', 3) uint8 if pictures are drawn, B; otherwise empty.
        skipped: Files that are not images, each with the reason.
    """

    image: Tensor
    path: list[str]
    size: list[tuple[int, int]]
    identity: list[Identity]
    preview: list[np.ndarray]
    skipped: list[tuple[str, str]]


class TasksOnHost:
    """Keeps task numbers on the host, since reading them in each step would wait for the GPU.

    A mix-in for a data module; see Lightning's `DataHooks`.
    """

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move everything but the task numbers as Lightning does."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)  # type: ignore[misc]
        here = isinstance(batch, Mapping) and "task" in batch
        return {**moved, "task": batch["task"]} if here else moved


def require_task_batch(batch: Any) -> None:
    """Check that a batch has a task, as those of the data module.

    Raises:
        DataError: the batch has no task.
    """
    if not (isinstance(batch, Mapping) and "task" in batch):
        raise DataError(
            f"tasks are learned and tested on batches of a ContinualDataModule, got {kind(batch)}: "
            "pass one to the Trainer as datamodule; only trainer.predict takes plain loaders"
        )


def images_of(batch: Any) -> Tensor:
    """The images (B, 3, H, W) of any batch: a tensor, the first of a list, or the entry `image`.

    Raises:
        DataError: the batch has none.
    """
    first = batch.get("image") if isinstance(batch, Mapping) else batch
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    if not isinstance(first, Tensor) or first.ndim != 4 or first.shape[1] != 3:
        raise DataError(
            "a batch to predict must be a tensor of images (B, 3, H, W), a list that begins with "
            f"one, or a dict with one as 'image', got {kind(batch)}"
        )
    return first


def kind(batch: Any) -> str:
    """Describe the type of a batch in a few words.

    Example:
        >>> kind({"img": 0}), kind([0, 1])
        ("a dict of ['img']", 'a list')
    """
    if isinstance(batch, Mapping):
        return f"a dict of {[str(key) for key in batch]}"
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    return f"a {type(batch).__name__}"
