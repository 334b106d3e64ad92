"""Finds where the host waits for the device: values that are read back from tensors.

For `benchmarks.gpu`.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero")
# on a GPU, these read counts that are on the host
ON_HOST = ("torch/optim", "torch/amp")
NOT_THE_CAUSE = ("site-packages/torch/", "benchmarks/harness/waits.py")


class HostReads(TorchDispatchMode):
    """Counts the values that are read back from tensors within the block.

    Attributes:
        places: Number of reads by place in the code, `file:line`.

    Example:
        >>> import torch
        >>> with HostReads() as reads:
        ...     _ = bool(torch.ones(3).isfinite().all())
        >>> sum(reads.places.values())
        1
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.name().split(".")[0] in READS:
            place = place_of(traceback.extract_stack())
            self.places.update([place] if place else [])
        return func(*args, **(kwargs or {}))


def place_of(stack: Sequence[traceback.FrameSummary]) -> str | None:
    """The innermost place outside torch; None if torch reads a value on the host."""
    inner: list[str] = []
    for frame in reversed(stack):
        if not any(part in frame.filename for part in NOT_THE_CAUSE):
            on_host = any(part in name for part in ON_HOST for name in inner)
            return None if on_host else f"{Path(frame.filename).name}:{frame.lineno}"
        inner.append(frame.filename)
    return "torch"


class StepReads(Callback):
    """Counts the values that training steps read back.

    Attributes:
        places: Number of reads by place in the code.
        steps: Number of steps.
    """

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.steps = 0
        self._reads: HostReads | None = None

    @property
    def per_step(self) -> float:
        """Values read back in a step, on average."""
        return sum(self.places.values()) / max(self.steps, 1)

    def on_train_batch_start(self, *args: Any) -> None:
        """Begin to count."""
        self._reads = HostReads()
        self._reads.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        """Add what the step read."""
        assert self._reads is not None
        self._reads.__exit__(None, None, None)
        self.places += self._reads.places
        self.steps += 1
