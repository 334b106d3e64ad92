"""Communication between the processes of a run on several devices; a single process needs none.

Of the images that a single process would take, rank r of W takes every W-th, from the r-th on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank_and_world() -> tuple[int, int]:
    """The rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def is_first() -> bool:
    """Whether this process is rank 0, which prints and writes for all ranks."""
    return rank_and_world()[0] == 0


def gather(value: T) -> list[T]:
    """The `value` of every process, in the order of ranks."""
    if not is_distributed():
        return [value]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """Merge the results of the ranks into the order of a single process.

    Example:
        >>> interleave([[0, 3, 6], [1, 4], [2, 5]])
        [0, 1, 2, 3, 4, 5, 6]
    """
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def all_gather_rows(own: Tensor) -> Tensor:
    """Gather the rows of all ranks; only this rank's rows have a gradient.

    DDP averages gradients over the ranks. If every rank multiplies a loss over all rows by the
    number of ranks, that average is the gradient of a single process with all rows.

    Shape: (N of this rank, ...) -> (N of all ranks, ...). A rank may have no rows.
    """
    if not is_distributed():
        return own
    rank, world = rank_and_world()
    counts = [torch.zeros((), dtype=torch.long, device=own.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor(len(own), device=own.device))
    # ranks exchange blocks of equal shape
    block = own.new_zeros(max(map(int, counts)), *own.shape[1:])
    block[: len(own)] = own.detach()
    blocks = [torch.empty_like(block) for _ in range(world)]
    dist.all_gather(blocks, block)
    parts = [part[: int(count)] for part, count in zip(blocks, counts, strict=True)]
    parts[rank] = own
    return torch.cat(parts)


def wait_for_all() -> None:
    """Wait until every rank has reached this call."""
    if is_distributed():
        dist.barrier()


def average(value: Tensor) -> Tensor:
    """Mean of a value () over the ranks."""
    if not is_distributed():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()
