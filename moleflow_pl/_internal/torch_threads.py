"""Limit torch to the calling thread, where other threads need the cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# else two threads could restore each other's limit, or, while they build models, interleave the
# random numbers of the process
LIMITED = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, let torch compute in the calling thread alone; one block at a time.

    By default an operation is shared among as many threads as there are cores, and ends when the
    last of them does. If another thread of the process is busy, that one has to wait for a core.

    A thread that computes for the first time while another is in the block stays limited too.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    with LIMITED:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
