"""How far an image is from a product's good ones, by what defects change least."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from moleflow_pl.router import TaskPrototype
from moleflow_pl.statistics import FeatureStatistics

PATCH_SHARE = 0.1  # of the patches' covariance that is added to the images'
PATCH_STEP = 8  # every so many patches of an image are enough for it


def typical_direction(features: Tensor) -> Tensor:
    """The middle of an image's patches, each brought to length one: (B, h, w, D) -> (B, D).

    A defect that covers less than half of an image hardly moves a median; length is where shade and
    contrast are.

    Example:
        >>> import torch
        >>> typical_direction(torch.ones(1, 2, 2, 4))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    return F.normalize(features, dim=-1).flatten(1, 2).median(1).values


class NoveltyStatistics:
    """Gathers a product's good images for its prototype of what is typical.

    Its covariance is that of the images' typical directions plus a share of that of their patches:
    the directions in which patches of one image differ are those in which defects move it.

    Args:
        dim: Channels, D.
    """

    def __init__(self, dim: int) -> None:
        self.images = FeatureStatistics(dim)
        self.patches = FeatureStatistics(dim)

    def update(self, features: Tensor) -> None:
        """Take in good images' features (B, h, w, D)."""
        self.images.update(typical_direction(features))
        # of each image by itself: batches may be any, and each rank's its own
        some = features.flatten(1, 2)[:, ::PATCH_STEP]
        self.patches.update(F.normalize(some, dim=-1))

    def gathered(self) -> NoveltyStatistics:
        """What all ranks have taken in together, the same on each."""
        merged = NoveltyStatistics(self.images.mean.numel())
        merged.images, merged.patches = self.images.gathered(), self.patches.gathered()
        return merged

    def prototype(self) -> TaskPrototype:
        """The prototype of all images so far."""
        made = TaskPrototype(self.images.mean.numel())
        made.set(self.images.widened(self.patches, PATCH_SHARE))
        return made
