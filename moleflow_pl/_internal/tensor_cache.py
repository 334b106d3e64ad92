"""A small cache of values derived from tensors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from moleflow_pl._internal.torch_compat import write_count

SIZE = 16  # entries
T = TypeVar("T")
# a tensor, its data pointer, and the number of writes to it so far
TensorVersion = tuple[Tensor, int, int]


class TensorCache(Generic[T]):
    """Least-recently-used cache of values built from tensors; a changed tensor causes a rebuild.

    Threads may share it. Two that need the same missing value at once both build it.

    Args:
        build: Builds the value of a key.
        size: Number of values to keep.

    Example:
        >>> cache = TensorCache(lambda key: [key], size=1)
        >>> cache.get(0, ()) is cache.get(0, ())
        True
    """

    def __init__(self, build: Callable[[int], T], size: int = SIZE) -> None:
        self.build = build
        self.size = size
        self._clear()

    def _clear(self) -> None:
        self._entries: OrderedDict[int, tuple[list[TensorVersion], T]] = OrderedDict()
        self._lock = threading.Lock()  # of the entries; nothing is built under it

    def __getstate__(self) -> dict[str, Any]:
        """Leave the entries out: every copy begins with an empty cache."""
        return {"build": self.build, "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what `__getstate__` returned."""
        vars(self).update(state)
        self._clear()

    def get(self, key: int, tensors: Sequence[Tensor]) -> T:
        """The value of `key`, which is built from `tensors`."""
        with self._lock:
            entry = self._entries.get(key)
        if entry is None or not same_state(entry[0], tensors):
            # the entry holds the tensors: freed memory could be reused at the same data pointer
            entry = ([(t, t.data_ptr(), write_count(t)) for t in tensors], self.build(key))
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)
        return entry[1]


def same_state(versions: Sequence[TensorVersion], tensors: Sequence[Tensor]) -> bool:
    """Whether these are the same tensors as before, unchanged since."""
    return len(versions) == len(tensors) and all(
        old is tensor and pointer == tensor.data_ptr() and version == write_count(tensor)
        for (old, pointer, version), tensor in zip(versions, tensors, strict=True)
    )
