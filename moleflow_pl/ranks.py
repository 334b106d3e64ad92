"""What the processes of a run on several devices tell each other; one alone tells itself.

Rank r of W takes every W-th image, from the r-th on, of all that one process would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def joined() -> bool:
    """Whether this process is one of several that know each other."""
    return dist.is_available() and dist.is_initialized()


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if joined() else (0, 1)


def is_first() -> bool:
    """Whether this is the process that speaks and writes for all."""
    return rank_and_world()[0] == 0


def gather(value: T) -> list[T]:
    """What every process has in the place of `value`, in the order of ranks."""
    if not joined():
        return [value]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """Put what the ranks made of their shares back into the order of one process.

    Example:
        >>> interleave([[0, 3, 6], [1, 4], [2, 5]])
        [0, 1, 2, 3, 4, 5, 6]
    """
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def total(number: int, device: torch.device) -> int:
    """Sum of a number over all ranks.

    Args:
        number: This rank's.
        device: Where the ranks exchange tensors: the model's.
    """
    if not joined():
        return number
    count = torch.tensor(number, device=device)
    dist.all_reduce(count)
    return int(count)


def share_of_mean(mean: Tensor, own: int, images: int) -> Tensor:
    """This rank's part of a mean over the images of all ranks.

    The parts average to that mean, and so do their gradients, which is what DDP does with them,
    however many images a rank has: none, too, whose mean is no number.

    Args:
        mean: Mean over this rank's images ().
        own: This rank's images.
        images: All ranks' images.
    """
    world = rank_and_world()[1]
    return mean if world == 1 else mean.expand(own).sum() * (world / images)


def wait_for_all() -> None:
    """Go on when every rank has come this far."""
    if joined():
        dist.barrier()


def average(value: Tensor) -> Tensor:
    """Mean of a value () over the ranks."""
    if not joined():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()
