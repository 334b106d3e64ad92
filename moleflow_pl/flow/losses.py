"""What a training step minimises, from the negative log-likelihood of its patches."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from moleflow_pl._internal.registry import Registry

TAIL_SHARE = 0.02  # of the patches
TAIL_WEIGHT = 0.7

LOSSES: Registry[Callable[[Tensor], Tensor]] = Registry("loss")


@LOSSES.add("mean")
def mean_loss(nll: Tensor) -> Tensor:
    """Mean over all patches: maximum likelihood, as the method was published.

    Shape: (...) -> ().
    """
    return nll.mean()


@LOSSES.add("tail")
def tail_loss(nll: Tensor) -> Tensor:
    """Weighted sum of the mean over all patches and the mean over the worst 2 % of them.

    The worst patches set an image's score, so false alarms depend on the density at rare normal
    patches, to which the plain mean gives little weight.

    Shape: (...) -> ().

    References: conditional value at risk: Rockafellar & Uryasev 2000, "Optimization of
    conditional value-at-risk", section 2.

    Example:
        >>> import torch
        >>> tail_loss(torch.tensor([0.0] * 99 + [10.0]))  # of 100, the two worst
        tensor(3.5300)
    """
    flat = nll.flatten()
    worst = flat.topk(max(round(TAIL_SHARE * len(flat)), 1)).values
    return (1 - TAIL_WEIGHT) * flat.mean() + TAIL_WEIGHT * worst.mean()
