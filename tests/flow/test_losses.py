import numpy as np
import torch

from moleflow_pl.flow.losses import mean_loss, tail_loss


def test_mean_loss_is_the_mean_over_patches() -> None:
    nll = torch.randn(4, 5, 5, dtype=torch.float64)
    assert abs(mean_loss(nll).item() - nll.numpy().mean()) < 1e-12


def test_tail_loss_weights_the_worst_two_in_a_hundred() -> None:
    nll = torch.randn(10, 4, 5, dtype=torch.float64)
    worst = np.sort(nll.numpy().ravel())[-4:]
    expected = 0.3 * nll.numpy().mean() + 0.7 * worst.mean()
    assert abs(tail_loss(nll).item() - expected) < 1e-12


def test_tail_of_few_patches_is_the_worst_one() -> None:
    assert torch.isclose(tail_loss(torch.tensor([0.0, 1.0])), torch.tensor(0.3 * 0.5 + 0.7))
