import pytest
import torch

from moleflow_pl._internal.devices import usual_device


@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_new_tensors_are_on_the_cpu_whatever_the_default(default: str) -> None:
    with torch.device(default):
        with usual_device():
            assert torch.zeros(2).device.type == "cpu"
        assert torch.zeros(2).device.type == default
