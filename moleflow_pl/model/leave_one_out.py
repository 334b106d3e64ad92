"""Scores of training images by memory banks from which the image's own patches are left out.

A bank holds patches of the training images, so these are closer to it than other good images.
Without its own patches, an image is scored like a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import rank_and_world
from moleflow_pl.data.batches import Batch
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.scoring.bank_search import projection_distance

# by part of the score: for each of its banks, the training image of every vector (M,)
Origins = dict[str, list[Tensor]]


class OthersSearch:
    """Searches a task's memory banks for training images, each among the vectors of the others.

    Args:
        inspector: The model, whose task is finished.
        task: The task.
        origins: The training images of its banks' vectors.
        images: Indices of the batch's images among the training images (B,).
    """

    def __init__(
        self, inspector: Inspector, task: int, origins: Origins, images: list[int]
    ) -> None:
        self.counted = inspector.interest.places(task)
        self.banks = inspector.search_banks(task)
        self.origins, self.images = origins, images

    def __call__(self, name: str, vectors: Tensor, task: Any, bank: int) -> Tensor:
        """Distances (B, h, w) of vectors (B, h, w, C), as a `PartSearch`."""
        stored, origins = self.banks[name][bank], self.origins[name][bank].to(vectors.device)
        distances = [
            projection_distance(vectors[i : i + 1], stored.only(origins != image), self.counted)
            for i, image in enumerate(self.images)
        ]
        return torch.cat(distances)


def with_originals(origins: Origins, originals: Tensor) -> Origins:
    """Origins in which each variant is replaced by its original.

    Args:
        origins: The training images of the banks' vectors.
        originals: For each training image, the index of the image that it is a variant of, or its
            own.

    Example:
        >>> with_originals({"bank": [torch.tensor([0, 3])]}, torch.tensor([0, 1, 0, 1]))
        {'bank': [tensor([0, 1])]}
    """
    return {part: [originals[bank.long()] for bank in banks] for part, banks in origins.items()}


def can_leave_out(inspector: Inspector, origins: Origins) -> bool:
    """Whether images can be left out: all parts have banks, each with vectors of several images."""
    banks = [bank for part in origins.values() for bank in part]
    return inspector.score.all_have_banks and all(bool((bank != bank[0]).any()) for bank in banks)


def scored_by_others(
    inspector: Inspector, task: int, batches: Iterable[Batch], origins: Origins
) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with its patch scores (B, h, w), each image's own patches left out.

    Args:
        inspector: The model, whose task is finished.
        task: The task.
        batches: Its training images or features, in the order in which its banks were filled; on
            several ranks, their shares.
        origins: The training images of its banks' vectors.
    """
    rank, world = rank_and_world()
    seen = 0
    for batch in batches:
        features = inspector.features(batch)
        images = [rank + world * (seen + i) for i in range(len(features))]
        seen += len(features)
        search = OthersSearch(inspector, task, origins, images)
        yield batch, inspector.patch_scores(features, task, search)
