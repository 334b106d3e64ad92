import pytest
import torch

from moleflow_pl.checkpoints.finite import require_finite
from moleflow_pl.errors import CheckpointError

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_each_value_that_is_no_number_is_found_among_many_tensors(
    kind: torch.dtype, value: float
) -> None:
    tensors = {str(i): torch.randn(3, 5).to(kind) for i in range(40)}
    require_finite(tensors)
    tensors["27"][2, 4] = value
    with pytest.raises(CheckpointError, match="its tensor 27 holds NaN or infinity"):
        require_finite(tensors)


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_whose_sum_is_too_large_pass(kind: torch.dtype) -> None:
    require_finite({"large": torch.full((100,), torch.finfo(kind).max, dtype=kind)})


def test_infinities_of_both_signs_do_not_cancel() -> None:
    with pytest.raises(CheckpointError, match="its tensor b "):
        require_finite({"a": torch.ones(2), "b": torch.tensor([torch.inf, -torch.inf])})


def test_what_has_no_such_values_is_passed_over() -> None:
    require_finite(
        {
            "whole": torch.ones(2, dtype=torch.int8),
            "text": "NaN",
            "none": None,
            "empty": torch.zeros(0, 3),
            "turned": torch.randn(4, 3).T,
            "parameter": torch.nn.Parameter(torch.ones(2)),
        }
    )
