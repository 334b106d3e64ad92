"""Image features and router distances of images whose tasks have regions of interest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moleflow_pl.features.region_of_interest import Region, groups_of, numbers_of
from moleflow_pl.routing.image_features import ImageFeatures
from moleflow_pl.routing.router import PrototypeRouter


def measure_distances(
    router: PrototypeRouter,
    image_features: ImageFeatures,
    features: Tensor,
    regions: Sequence[Region | None],
    columns: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Image features and router distances, each task by its own patches of interest.

    Args:
        router: Has a prototype of each task.
        image_features: Reduce patch features to the router's input.
        features: Patch features (B, h, w, D).
        regions: The regions of the tasks to choose from.
        columns: The columns of these in the router's distances; by default all.

    Returns:
        Image features (B, D) or (B, R, D) by the region of the nearest task, and distances (B, T).
    """

    def distances_of(view: Tensor) -> Tensor:
        distances = router.distances(view)
        return distances if columns is None else distances[:, columns]

    groups = groups_of(regions)
    views = [image_features(features, region) for region in groups]
    distances = distances_of(views[0])
    if len(groups) <= 1:
        return views[0], distances
    number = numbers_of(groups, distances.device)
    for i, view in enumerate(views[1:], start=1):
        distances = torch.where(number == i, distances_of(view), distances)
    nearest = number[distances.argmin(1)]
    selected = views[0]
    for i, view in enumerate(views[1:], start=1):
        selected = torch.where((nearest == i).reshape(-1, *[1] * (view.ndim - 1)), view, selected)
    return selected, distances
