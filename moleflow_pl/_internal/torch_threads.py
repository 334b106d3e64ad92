"""Limit torch to the calling thread, where other threads need the cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LOCK = threading.RLock()  # else two threads could restore each other's limit


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, let torch compute in the calling thread alone; one block at a time.

    By default torch shares an operation among as many threads as there are cores, and waits for all
    of them. If other work needs a core, the operation waits for that work too.

    Since there is one block at a time, threads that build models in it do not interleave the random
    numbers of the process. A thread that computes for the first time while another is in the block
    stays limited too.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    with LOCK:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
