import pytest
import torch

from moleflow_pl.flow.lora import LoRALinear, MoLESubnet


def test_new_task_answers_as_the_shared_layer() -> None:
    layer = LoRALinear(6, 5, rank=3)
    layer.add_task(0)
    x = torch.randn(4, 6)
    assert torch.equal(layer(x, 0), layer(x))


def test_merged_weight_gives_the_experts_answer() -> None:
    layer = LoRALinear(6, 5, rank=3, alpha=2.0).double()
    layer.add_task(0)
    torch.nn.init.normal_(layer.lora_B["0"])
    torch.nn.init.normal_(layer.task_biases["0"])
    x = torch.randn(4, 6, dtype=torch.float64)
    bias = layer.base_linear.bias + layer.task_biases["0"]
    expected = x @ layer.get_merged_weight(0).T + bias
    torch.testing.assert_close(layer(x, 0), expected)


@pytest.mark.parametrize(
    ("switches", "names"),
    [
        ({}, {"lora_A.0", "lora_B.0", "task_biases.0"}),
        ({"use_lora": False}, {"task_biases.0"}),
        ({"use_task_bias": False}, {"lora_A.0", "lora_B.0"}),
    ],
)
def test_switches_decide_what_an_expert_has(switches: dict[str, bool], names: set[str]) -> None:
    layer = LoRALinear(6, 5, rank=3, **switches)
    layer.add_task(0)
    base = {"base_linear.weight", "base_linear.bias"}
    assert set(layer.state_dict()) == base | names
    assert len(layer.expert_parameters(0)) == len(names)


def test_scaling_is_alpha_over_rank() -> None:
    assert LoRALinear(4, 4, rank=32).scaling == 1 / 32


def test_unknown_task_is_an_error_that_lists_the_known() -> None:
    layer = LoRALinear(4, 4, rank=2, use_lora=False, use_task_bias=False)
    layer.add_task(0)
    layer(torch.zeros(1, 4), 0)
    with pytest.raises(KeyError, match=r"task 1: this layer has \[0\]"):
        layer(torch.zeros(1, 4), 1)


def test_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 4096, got 0"):
        LoRALinear(4, 4, rank=0)


def test_subnet_has_a_hidden_layer_of_twice_its_input() -> None:
    subnet = MoLESubnet(4, 10, rank=2)
    assert subnet.layer1.base_linear.out_features == 8
    subnet.add_task(0)
    assert len(subnet.expert_parameters(0)) == 6
    assert len(subnet.base_parameters()) == 4
