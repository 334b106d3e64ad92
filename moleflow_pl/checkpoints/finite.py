"""Whether tensors hold numbers alone: no NaN and no infinity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moleflow_pl._internal.hashing import joined
from moleflow_pl.errors import CheckpointError


def require_finite(tensors: Mapping[str, Any]) -> None:
    """Check that no tensor holds NaN or infinity; other values are passed over.

    Raises:
        CheckpointError: a tensor holds NaN or infinity; the message names it.
    """
    floats = {
        name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has none
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
    }
    if sums_are_finite(floats.values()):
        return
    for name, tensor in floats.items():  # a sum of large numbers overflows
        if not tensor.isfinite().all():
            raise CheckpointError(f"its tensor {name} holds NaN or infinity")


def sums_are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether sums over all values are finite: one pass over many small tensors together."""
    by_type: defaultdict[np.dtype, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        by_type[tensor.numpy(force=True).dtype].append(tensor)
    with np.errstate(over="ignore", invalid="ignore"):
        return all(
            np.isfinite(sum_of(np.frombuffer(block, kind)))
            for kind, alike in by_type.items()
            for block in joined(alike)
        )


def sum_of(values: np.ndarray) -> np.floating:
    """The sum in single precision or better."""
    return values.sum(dtype=np.promote_types(values.dtype, np.float32))
