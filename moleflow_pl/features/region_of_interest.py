"""Regions of interest: which patches of a product's images count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl.errors import ConfigError
from moleflow_pl.features.patch_grid import z_curve

LEAST_SHARE = 0.5  # a patch counts if at least this share of its pixels lies in the region


@dataclass(frozen=True, eq=False)
class Region:
    """The patches of interest of an image, which are not all of its patches.

    Attributes:
        inside: Whether each patch is of interest (h, w), bool.
        places: Their row-major indices (n,).
        curve: The same indices along a Z-order curve.
    """

    inside: Tensor
    places: Tensor
    curve: Tensor

    @classmethod
    def of(cls, inside: Tensor) -> Region:
        """The region of a mask (h, w), bool."""
        order = z_curve((inside.shape[0], inside.shape[1])).to(inside.device)
        flat = inside.flatten()
        return cls(inside, flat.nonzero()[:, 0], order[flat[order]])

    def rows(self, values: Tensor) -> Tensor:
        """Select the values (B, n, ...) of patches of interest from all (B, h, w, ...)."""
        return values.flatten(1, 2)[:, self.places]

    def spread(self, count: int) -> Tensor:
        """Row-major indices (count,) of patches spread over the region, repeated if it is small."""
        steps = (2 * torch.arange(count, device=self.curve.device) + 1) * len(self.curve)
        return self.curve[steps // (2 * count)]

    def cover(self, patch_scores: Tensor) -> Tensor:
        """Set patch scores (B, h, w) outside the region to 0, or to the lowest inside if below 0.

        So no score outside exceeds those inside, whatever their unit.
        """
        lowest = self.rows(patch_scores).amin(1).clamp(max=0)
        return torch.where(self.inside, patch_scores, lowest[:, None, None])

    def frame(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Bounding box, as rows and columns of an image (H, W), of all patches of interest."""
        frame = []
        for axis, length in enumerate(size):
            along = self.inside.any(1 - axis)
            indices = along.nonzero()[:, 0]
            ends = (int(indices[0]), int(indices[-1]) + 1)
            frame.append(slice(*(end * length // len(along) for end in ends)))
        return frame[0], frame[1]


class TaskRegion(nn.Module):
    """Which patches of a task's images count.

    Shape: buffer `inside` (h, w), bool; at first all.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("inside", torch.ones(grid, dtype=torch.bool))
        self.inside: Tensor


class RegionsOfInterest(nn.Module):
    """The regions of interest of a model's tasks.

    Example:
        >>> regions = RegionsOfInterest()
        >>> regions.add(0, (2, 2))
        >>> regions.for_task(0)
        >>> regions.set(0, torch.eye(2, dtype=torch.bool))
        >>> regions.for_task(0).places
        tensor([0, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict()
        self._found: dict[int, Region] | None = None
        self.register_load_state_dict_post_hook(forget_after_loading)

    def add(self, task: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        """Let all patches of a new task count."""
        if str(task) not in self.tasks:
            self.tasks[str(task)] = TaskRegion(grid).to(device)

    def set(self, task: int, inside: Tensor) -> None:
        """Let the patches (h, w) of a mask count, and no others."""
        cast(Any, self.tasks[str(task)]).inside.copy_(inside)
        self.forget()

    def for_task(self, task: int) -> Region | None:
        """The region of a task; None where all patches count."""
        if self._found is None:
            self._found = self._find()
        return self._found.get(task)

    def places(self, task: int) -> Tensor | None:
        """Row-major indices of a task's patches of interest; None where all patches count."""
        region = self.for_task(task)
        return None if region is None else region.places

    def for_tasks(self, tasks: Sequence[int]) -> list[Region | None]:
        """The regions of tasks, or [None] where all patches count for every task."""
        if self._found is None:
            self._found = self._find()
        return [self._found.get(task) for task in tasks] if self._found else [None]

    def forget(self) -> None:
        """Drop what was computed from the masks: they have changed."""
        self._found = None

    def _find(self) -> dict[int, Region]:
        """Regions that are not the whole image; equal ones are the same object."""
        shared: dict[bytes, Region] = {}
        regions = {}
        for key, task in self.tasks.items():
            inside = cast(Any, task).inside
            if not inside.all():
                known = inside.cpu().numpy().tobytes()
                regions[int(key)] = shared.setdefault(known, Region.of(inside))
        return regions

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.forget()  # the masks move to another device
        return super()._apply(*args, **kwargs)


def forget_after_loading(regions: RegionsOfInterest, keys: Any) -> None:
    """Forget what was computed before loading; a module-level function can be pickled."""
    regions.forget()


def patches_inside(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches have at least half of their pixels in a region.

    Shape: pixels (H, W), 0 outside -> (h, w), bool.

    Raises:
        ConfigError: the region covers no patch.

    Example:
        >>> patches_inside(torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]]), (1, 2))
        tensor([[False,  True]])
    """
    shares = F.adaptive_avg_pool2d((pixels != 0).float()[None, None], grid)[0, 0]
    inside = shares >= LEAST_SHARE
    if not inside.any():
        height, width = grid
        raise ConfigError(f"it covers half of none of the {height} x {width} patches: enlarge it")
    return inside


def rows_of(values: Tensor, region: Region | None) -> Tensor:
    """Values (B, h, w, ...) of all patches, or (B, 1, n, ...) of those of interest."""
    return values if region is None else region.rows(values)[:, None]


def groups_of(regions: Sequence[Region | None]) -> dict[Region | None, list[int]]:
    """Indices of equal regions, by region, in order of first appearance."""
    groups: dict[Region | None, list[int]] = {}
    for place, region in enumerate(regions):
        groups.setdefault(region, []).append(place)
    return groups


def numbers_of(groups: dict[Region | None, list[int]], device: torch.device) -> Tensor:
    """The number of the group that each index belongs to, (T,)."""
    pairs = sorted((place, i) for i, places in enumerate(groups.values()) for place in places)
    return torch.tensor([number for _, number in pairs], device=device)


def by_region(
    regions: Sequence[Region | None], index: Tensor, compute: Callable[[Region | None], Tensor]
) -> Tensor:
    """Compute a value for each image with the region of its task.

    Args:
        regions: The regions of some tasks.
        index: Index of each image's task in `regions` (B,).
        compute: Maps a region to the values of all images (B, ...).
    """
    groups = groups_of(regions)
    values: Iterator[Tensor] = map(compute, groups)
    result = next(values)
    if len(groups) == 1:
        return result
    number = numbers_of(groups, index.device)[index]
    for i, value in enumerate(values, start=1):
        own = (number == i).reshape(-1, *[1] * (value.ndim - 1))
        result = torch.where(own, value, result)
    return result


def scores_inside(
    patch_scores: Tensor,
    image_score: Callable[[Tensor], Tensor],
    regions: Sequence[Region | None],
    index: Tensor,
) -> tuple[Tensor, Tensor]:
    """Image scores (B,) of the patches that count, and patch scores that are 0 elsewhere.

    Args:
        patch_scores: (B, h, w).
        image_score: Patch scores (B, h, w), or (B, 1, n) of a region -> (B,).
        regions: The regions of some tasks.
        index: Index of each image's task in `regions` (B,).
    """

    def score(region: Region | None) -> Tensor:
        return image_score(rows_of(patch_scores, region))

    def cover(region: Region | None) -> Tensor:
        return patch_scores if region is None else region.cover(patch_scores)

    return by_region(regions, index, score), by_region(regions, index, cover)
