"""The device of new tensors, independent of the caller's default."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def usual_device() -> AbstractContextManager[Any]:
    """Within the block, tensors that name no device are on the CPU, as torch does by itself.

    A program may have set another default, such as `meta`, whose tensors have no values.
    """
    usual = torch.get_default_device().type == "cpu"
    # torch.device costs time in every call of torch
    return nullcontext() if usual else torch.device("cpu")
