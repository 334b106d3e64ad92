"""Keep freed memory in the process, so that the next image finds it again.

By default glibc returns large blocks to the system as soon as they are free. A model allocates the
same ones for each image, and every new page of them costs a page fault.
"""

from __future__ import annotations

import ctypes
import os
import sys

# environment variable of glibc: (number of the same parameter in malloc.h, value)
PARAMETERS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20),  # the largest that glibc takes
    "MALLOC_TRIM_THRESHOLD_": (-1, 512 * 2**20),
    "MALLOC_ARENA_MAX": (-8, 1),  # arenas of other threads return their memory all the same
}
ENVIRONMENT = {name: str(value) for name, (_, value) in PARAMETERS.items()}


def keep_freed_memory() -> None:
    """Let glibc keep up to 512 MiB of freed memory, in this process and in those it starts.

    A parameter that the environment sets stays as it is. Does nothing with another C library.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "gnu_get_libc_version"):
        return
    for name, (parameter, value) in PARAMETERS.items():
        if name not in os.environ:
            library.mallopt(parameter, value)
            os.environ[name] = str(value)
