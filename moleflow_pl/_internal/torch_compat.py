"""Every private attribute of torch that the packages use.

Each has a test of its own. `libraries` has one more, which marks what the compiler skips.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_bfloat16_kernels() -> bool:
    """Whether torch's CPU library computes in bfloat16 without emulating it."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def has_bfloat16_instructions() -> bool:
    """Whether the CPU has instructions for bfloat16: vector or matrix units."""
    return has_matrix_units() or cpu_feature("_is_avx512_bf16_supported")


def has_matrix_units() -> bool:
    """Whether the CPU has matrix units for bfloat16."""
    return cpu_feature("_is_amx_tile_supported")


def cpu_feature(name: str) -> bool:
    """Whether torch reports a feature of the CPU; a version of torch that cannot tell says no."""
    return getattr(torch.cpu, name, lambda: False)()


def write_count(tensor: Tensor) -> int:
    """Number of in-place writes to a tensor so far; views share it."""
    return tensor._version
