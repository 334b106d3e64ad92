"""A small cache of things that are made from tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

KEPT = 16  # 7 MB each at 384 channels, 28 at 768
T = TypeVar("T")
TensorVersion = tuple[
    Tensor, int, int
]  # a tensor, where it lay and how often it had been written to


class TensorCache(Generic[T]):
    """What is made from tensors, the ones asked for last; made anew when a tensor has changed.

    Args:
        build: Makes the thing of a key.
        size: Things to keep.

    Example:
        >>> cache = TensorCache(lambda key: [key], size=1)
        >>> cache.get(0, ()) is cache.get(0, ())
        True
    """

    def __init__(self, build: Callable[[int], T], size: int = KEPT) -> None:
        self.build = build
        self.size = size
        self._kept: OrderedDict[int, tuple[list[TensorVersion], T]] = OrderedDict()

    def get(self, key: int, tensors: Sequence[Tensor]) -> T:
        """The thing of `key`, which is made from `tensors`."""
        kept = self._kept.pop(key, None)
        if kept is None or not same_state(kept[0], tensors):
            # the tensors themselves are kept: another one could come to lie where one was
            kept = ([(t, t.data_ptr(), t._version) for t in tensors], self.build(key))
        self._kept[key] = kept
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return kept[1]


def same_state(made: Sequence[TensorVersion], tensors: Sequence[Tensor]) -> bool:
    """Whether these are the tensors that something was made from, none changed since."""
    return len(made) == len(tensors) and all(
        one is tensor and place == tensor.data_ptr() and version == tensor._version
        for (one, place, version), tensor in zip(made, tensors, strict=True)
    )
