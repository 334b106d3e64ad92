"""Images and computed features as torch data sets, with batches of the same keys."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from moleflow_pl._internal.seeding import derive_generator
from moleflow_pl.data.batches import Batch
from moleflow_pl.data.images import read_image
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.masks import read_mask
from moleflow_pl.data.patch_sampler import PatchDraw
from moleflow_pl.data.variants import VARIANTS
from moleflow_pl.errors import DataError


def describe(records: Sequence[ImageRecord], task: int) -> Batch:
    """The keys of a batch that describe its images.

    Shape: `task` and `gt_label` are long (B,); `path`, `product` and `defect` lists of length B.
    """
    return {
        "task": torch.full((len(records),), task, dtype=torch.long),
        "gt_label": torch.tensor([record.gt_label for record in records], dtype=torch.long),
        "path": [str(record.path) for record in records],
        "product": [record.product for record in records],
        "defect": [record.defect for record in records],
    }


class ImageDataset(Dataset):
    """Images of one task.

    A batch holds `image` (B, 3, H, W) uint8, `gt_mask`, a list of masks (H', W') at their own size
    (None where a product has no masks), `patches` (B, n) where patches are drawn, and the keys of
    `describe`.

    Args:
        records: The images.
        task: Number of their task; -1 if unknown.
        size: Height and width that the images are resized to.
        masks: Read the masks.
    """

    def __init__(
        self, records: Sequence[ImageRecord], task: int, size: tuple[int, int], masks: bool = False
    ) -> None:
        self.records = list(records)
        self.task = task
        self.size = size
        self.masks = masks
        self.draw: PatchDraw | None = None  # set for each epoch of training

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[ImageRecord, Tensor, Tensor | None, int]:
        record = self.records[index]
        image = read_image(record.path, self.size)
        if record.variant is not None:
            image = VARIANTS[record.variant](image)
        return record, image, self._mask(record) if self.masks else None, index

    def _mask(self, record: ImageRecord) -> Tensor | None:
        if not record.has_masks:
            return None
        if record.lacks_mask:
            raise DataError(
                f"{record.path} has no mask {record.expected_mask}: add one for every defective "
                "image of the product, or remove all its masks to measure image metrics alone"
            )
        if record.mask is None:
            return torch.zeros(1, 1, dtype=torch.uint8)
        return read_mask(record.mask).pixels

    def collate(self, samples: list[tuple[ImageRecord, Tensor, Tensor | None, int]]) -> Batch:
        """Collate samples to a batch."""
        records = [record for record, _, _, _ in samples]
        images = [image for _, image, _, _ in samples]
        # a rank's share of a small batch may be empty
        empty = torch.empty(0, 3, *self.size, dtype=torch.uint8)
        batch = describe(records, self.task)
        batch["image"] = torch.stack(images) if images else empty
        batch["gt_mask"] = [mask for _, _, mask, _ in samples]
        if self.draw is not None:
            batch["patches"] = self.draw([index for *_, index in samples])
        return batch


class FeatureDataset(Dataset):
    """Features of one task, computed beforehand.

    A batch holds `features` (B, h, w, D) and the keys of `describe`. Where patches are drawn,
    `features` (B, n, D) are those of the drawn patches, `patches` (B, n) their indices and `grid`
    (h, w) the grid they come from.

    Args:
        features: (N, h, w, D).
        records: The images they were computed from, N.
        task: Number of their task.
    """

    def __init__(self, features: Tensor, records: Sequence[ImageRecord], task: int) -> None:
        self.features = features
        self.records = list(records)
        self.task = task
        self.draw: PatchDraw | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch; torch's loader prefers this method to `__getitem__`."""
        batch = describe([self.records[index] for index in indices], self.task)
        if self.draw is None:
            batch["features"] = self.features[indices]
            return batch
        patches = self.draw(indices)
        # reads only these patches from the store
        rows = torch.tensor(indices, dtype=torch.long)[:, None]
        height, width = self.features.shape[1:3]
        batch["features"] = self.features.flatten(1, 2)[rows, patches]
        batch["patches"], batch["grid"] = patches, (height, width)
        return batch

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """Return the batch of `__getitems__`, which is complete."""
        return batch


class SeededOrder(Sampler[int]):
    """A shuffled order that is the same in every iteration.

    A generator with state would give a resumed run another order, since Lightning then iterates
    once less.

    Args:
        length: Number of samples.
        seed: Seed of the run.
        purpose: What the order is for, see `derive_seed`.

    Example:
        >>> order = SeededOrder(4, 0, "leather", 1)
        >>> list(order) == list(order), sorted(order)
        (True, [0, 1, 2, 3])
    """

    def __init__(self, length: int, seed: int, *purpose: str | int) -> None:
        self.length = length
        self.seed = seed
        self.purpose = purpose

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = derive_generator(self.seed, "order", *self.purpose)
        return iter(torch.randperm(self.length, generator=generator).tolist())


class SharedBatches(Sampler[list[int]]):
    """This rank's share of every global batch; all ranks together train like one process.

    Every rank has the same number of batches; its share of the last batch may be empty.

    Args:
        order: Indices of the samples of all ranks.
        batch_size: Samples of one rank in a batch.
        rank: Number of this rank.
        world: Number of ranks.

    Example:
        >>> [list(SharedBatches(range(5), 2, rank, world=2)) for rank in (0, 1)]
        [[[0, 2], [4]], [[1, 3], []]]
    """

    def __init__(self, order: Collection[int], batch_size: int, rank: int, world: int) -> None:
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return math.ceil(len(self.order) / (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[int]]:
        order, step = list(self.order), self.batch_size * self.world
        for start in range(0, len(order), step):
            yield order[start : start + step][self.rank :: self.world]
