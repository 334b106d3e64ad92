"""Image features, the input of a router, behind one signature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl._internal.registry import Registry
from moleflow_pl.features.region_of_interest import Region
from moleflow_pl.scoring.functional import lower_median

SIDE = 4  # regions along each side of an image
REGIONS = SIDE * SIDE


class ImageFeatures(ABC):
    """Reduces the patch features of an image to what prototypes are fitted to.

    Attributes:
        name: The name it is registered under.
        regions: Regions of an image, R, if each has a feature.
    """

    name: ClassVar[str]
    regions: int | None = None

    @abstractmethod
    def __call__(self, features: Tensor, interest: Region | None = None) -> Tensor:
        """Image features (B, D), or (B, R, D) by region, of patch features (B, h, w, D).

        With a region of interest, only its patches count.
        """


IMAGE_FEATURES: Registry[type[ImageFeatures]] = Registry("prototype")


@IMAGE_FEATURES.add("regions")
class RegionMeans(ImageFeatures):
    """The mean direction of the patches in each of 16 regions; see `region_means`.

    They tell similar products apart by where they differ.
    """

    regions = REGIONS

    def __call__(self, features: Tensor, interest: Region | None = None) -> Tensor:
        """Features (B, 16, D)."""
        return region_means(features, interest=interest)


@IMAGE_FEATURES.add("mean")
class PatchMean(ImageFeatures):
    """The mean over all patches, as the method was published."""

    def __call__(self, features: Tensor, interest: Region | None = None) -> Tensor:
        """Features (B, D)."""
        return features.mean((1, 2)) if interest is None else interest.rows(features).mean(1)


@IMAGE_FEATURES.add("median")
class PatchMedian(ImageFeatures):
    """The lower median over all patches: a small defect, however bright, hardly changes it."""

    def __call__(self, features: Tensor, interest: Region | None = None) -> Tensor:
        """Features (B, D)."""
        rows = features.flatten(1, 2) if interest is None else interest.rows(features)
        return lower_median(rows)


def region_means(features: Tensor, side: int = SIDE, interest: Region | None = None) -> Tensor:
    """Mean of the patches in each region, after scaling each patch to length one.

    The length of a patch feature varies with brightness and contrast. A region without a patch of
    interest gets the mean of all patches of interest.

    Shape: (B, h, w, D) -> (B, side^2, D), for any h and w.

    Example:
        >>> import torch
        >>> region_means(torch.tensor([3.0, 4.0]).expand(1, 16, 16, 2))[0, 0]
        tensor([0.6000, 0.8000])
    """
    directions = F.normalize(features, dim=-1)
    if interest is None:
        pooled = F.adaptive_avg_pool2d(directions.permute(0, 3, 1, 2), side)
        return pooled.flatten(2).transpose(1, 2)
    weights = interest.inside.to(directions.dtype)
    pooled = F.adaptive_avg_pool2d((directions * weights[..., None]).permute(0, 3, 1, 2), side)
    shares = F.adaptive_avg_pool2d(weights[None, None], side)
    means = pooled / shares.clamp_min(torch.finfo(shares.dtype).tiny)
    total = interest.rows(directions).mean(1)[..., None, None]
    return torch.where(shares > 0, means, total).flatten(2).transpose(1, 2)
