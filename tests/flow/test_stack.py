import torch

from moleflow_pl.flow.stack import Stack


def test_each_image_gets_the_tensors_of_its_task() -> None:
    weights = [torch.randn(2, 3) for _ in range(3)]
    stack = Stack(weight=weights, bias=[torch.tensor(float(i)) for i in range(3)])
    index = torch.tensor([2, 0, 2, 1])
    assert torch.equal(stack.select("weight", index), torch.stack([weights[i] for i in index]))
    assert stack.select("bias", index).tolist() == [2, 0, 2, 1]


def test_a_stack_holds_copies_without_gradients() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    stack = Stack(weight=[parameter])
    with torch.no_grad():
        parameter += 1
    assert stack.get_buffer("weight").tolist() == [[0, 0]]
    assert not list(stack.parameters())
