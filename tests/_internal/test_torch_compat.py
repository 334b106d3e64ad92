from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moleflow_pl._internal.torch_compat import (
    cpu_feature,
    has_bfloat16_instructions,
    has_bfloat16_kernels,
    has_matrix_units,
    write_count,
)

CPUINFO = Path("/proc/cpuinfo")


def flags() -> set[str]:
    """The features of this CPU as Linux names them."""
    if not CPUINFO.exists():
        pytest.skip("not Linux")
    lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    return {word for line in lines if line.startswith("flags") for word in line.split()}


@pytest.mark.parametrize(
    ("has", "names"),
    [
        (has_bfloat16_instructions, {"avx512_bf16", "amx_tile"}),
        (has_matrix_units, {"amx_tile"}),
    ],
)
def test_features_of_the_cpu_are_those_that_linux_lists(
    has: Callable[[], bool], names: set[str]
) -> None:
    assert has() == bool(flags() & names)


def test_a_cpu_with_bfloat16_instructions_has_kernels_for_them() -> None:
    assert has_bfloat16_kernels() or not flags() & {"avx512_bf16"}


def test_a_feature_that_torch_does_not_know_is_missing() -> None:
    assert not cpu_feature("_is_no_such_feature_supported")


def test_torch_counts_the_writes_to_a_tensor_and_to_its_views() -> None:
    tensor = torch.zeros(3)
    view, before = tensor.view(3), write_count(tensor)
    tensor + 1
    assert write_count(tensor) == before
    view.add_(1)
    assert write_count(tensor) == write_count(view) == before + 1
