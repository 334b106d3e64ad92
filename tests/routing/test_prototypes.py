import torch
from torch import Tensor

from moleflow_pl.routing.prototypes import TaskPrototype


def test_prototype_grown_in_batches_equals_one_at_once() -> None:
    features = torch.randn(30, 4)
    grown = TaskPrototype(4)
    for part in features.split(7):
        grown.update(part)
    at_once = prototype_of(features)
    assert grown.count == 30
    torch.testing.assert_close(grown.mean, at_once.mean)
    torch.testing.assert_close(grown.covariance, at_once.covariance, rtol=1e-5, atol=1e-6)


def prototype_of(features: Tensor) -> TaskPrototype:
    prototype = TaskPrototype(features.shape[1])
    prototype.update(features)
    return prototype
