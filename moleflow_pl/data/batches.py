"""What a batch holds, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from moleflow_pl.errors import DataError


class Identity(NamedTuple):
    """What tells an image file from any other, and from itself at another time.

    Attributes:
        path: Its absolute path, as it is written into a table.
        size: Bytes.
        modified: When it was last written, in nanoseconds.
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
        patches: Places of the drawn patches in the grid, row by row, long (B, n).
        grid: Height and width (h, w) of the grid that drawn features are of.
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
        identity: Which files they are, B.
        preview: Small copies (H', W', 3) uint8 where pictures are drawn, B; else empty.
        skipped: Files that are no images, each with the reason.
    """

    image: Tensor
    path: list[str]
    size: list[tuple[int, int]]
    identity: list[Identity]
    preview: list[np.ndarray]
    skipped: list[tuple[str, str]]


class TasksOnHost:
    """Leaves the numbers of tasks on the host: each step looks at them, and would wait for a GPU.

    Of a data module; see Lightning's `DataHooks`.
    """

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move all else as Lightning does."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)  # type: ignore[misc]
        here = isinstance(batch, Mapping) and "task" in batch
        return {**moved, "task": batch["task"]} if here else moved


def require_task_batch(batch: Any) -> None:
    """Check that a batch is of one task, as the data module makes them.

    Raises:
        DataError: it is not.
    """
    if not (isinstance(batch, Mapping) and "task" in batch):
        raise DataError(
            f"tasks are learned and tested on batches of a ContinualDataModule, got {kind(batch)}: "
            "pass it to the Trainer as datamodule. trainer.predict takes loaders of images"
        )


def images_of(batch: Any) -> Tensor:
    """The images (B, 3, H, W) of a loader's own batch: a tensor, the first of several, or `image`.

    Raises:
        DataError: there are none.
    """
    first = batch.get("image") if isinstance(batch, Mapping) else batch
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    if not isinstance(first, Tensor) or first.ndim != 4 or first.shape[1] != 3:
        raise DataError(
            "a batch to predict is a tensor of images (B, 3, H, W), a list that begins with one, "
            f"or a dict with one as 'image', got {kind(batch)}"
        )
    return first


def kind(batch: Any) -> str:
    """What a batch is, in a few words.

    Example:
        >>> kind({"img": 0}), kind([0, 1])
        ("a dict of ['img']", 'a list')
    """
    if isinstance(batch, Mapping):
        return f"a dict of {[str(key) for key in batch]}"
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    return f"a {type(batch).__name__}"
