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


def all_gather_rows(own: Tensor) -> Tensor:
    """This rank's rows and those of all others, which have no gradient here.

    A loss of all rows, times the number of ranks, so has the gradients whose mean over the ranks is
    that of one process with all rows; that mean is what DDP takes.

    Shape: (N of this rank, ...) -> (N of all ranks, ...). A rank may have none.
    """
    if not joined():
        return own
    rank, world = rank_and_world()
    counts = [torch.zeros((), dtype=torch.long, device=own.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor(len(own), device=own.device))
    # ranks exchange blocks of one shape
    block = own.new_zeros(max(map(int, counts)), *own.shape[1:])
    block[: len(own)] = own.detach()
    blocks = [torch.empty_like(block) for _ in range(world)]
    dist.all_gather(blocks, block)
    parts = [part[: int(count)] for part, count in zip(blocks, counts, strict=True)]
    parts[rank] = own
    return torch.cat(parts)


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
