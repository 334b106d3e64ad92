"""Statistics of good images alone: where they are routed, and whether they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from moleflow_pl._internal.seeding import derive_generator

SHUFFLES = 999  # random splits for the permutation test
ROUNDING = 1e-6  # relative spread up to which a channel counts as constant
FEWEST = 4  # images for two halves with a spread


class Halves(TypedDict):
    """Difference between the first and the second half of a product's images.

    Attributes:
        distance: Distance between the halves' mean features, in standard deviations of the images,
            averaged over channels.
        by_chance: Mean distance between random halves of these images.
        p: Share of random halves at least as far apart; low if the images changed.
    """

    distance: float
    by_chance: float
    p: float


class GoodImages(TypedDict):
    """Statistics of a task without test images.

    Attributes:
        training: Number of its training images.
        calibration: Number of its calibration images.
        routed: Number of its calibration images routed to each task.
        halves: Comparison of its first and last calibration images; None for fewer than four.
    """

    training: int
    calibration: int
    routed: list[int]
    halves: Halves | None


def compare_halves(features: Tensor, products: Sequence[str]) -> Halves | None:
    """Compare the first half of each product's images with its second half.

    Args:
        features: One vector for each image, in the images' order (N, D).
        products: Product of each image, N.

    Returns:
        The comparison; None for fewer than four images.

    References: a permutation test, Phipson & Smyth 2010, doi:10.2202/1544-6115.1585.
    """
    later = second_halves(products)
    if len(features) < FEWEST or not 0 < later.sum() < len(later):
        return None
    values = features.to(torch.float64, copy=True)
    for product in dict.fromkeys(products):
        of_product = torch.tensor([name == product for name in products])
        values[of_product] -= values[of_product].mean(0)
    spread = values.std(0)
    # ignore channels that are constant up to rounding
    values /= torch.where(spread > ROUNDING * features.abs().amax(0), spread, torch.inf)
    generator = derive_generator(0, "halves")
    orders = [torch.randperm(len(later), generator=generator) for _ in range(SHUFFLES)]
    halves = torch.stack([later, *[later[order] for order in orders]]).double()
    weights = halves / later.sum() - (1 - halves) / (~later).sum()
    distances = (weights @ values).abs().mean(1)
    as_far = distances[1:] >= distances[0] * (1 - 1e-9)
    return Halves(
        distance=distances[0].item(),
        by_chance=distances[1:].mean().item(),
        p=(1 + int(as_far.sum())) / (1 + SHUFFLES),
    )


def second_halves(products: Sequence[str]) -> Tensor:
    """Whether each image (N,) is in the second half of its product's images, bool.

    Example:
        >>> second_halves(["a", "a", "b", "b", "b"]).tolist()
        [False, True, False, True, True]
    """
    names = np.asarray(products)
    later = np.zeros(len(names), bool)
    for name in dict.fromkeys(products):
        (places,) = np.nonzero(names == name)
        later[places[len(places) // 2 :]] = True
    return torch.from_numpy(later)
