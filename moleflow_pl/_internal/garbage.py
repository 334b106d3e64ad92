"""Import large libraries without Python's garbage collector, which would search them repeatedly."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage in the block, and never look again at what exists at its end.

    Imports make hundreds of thousands of objects that live as long as the process. Each full
    collection would visit them all: several times during the imports, and later in the middle of
    an image.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
