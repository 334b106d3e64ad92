"""Baselines on the same features as the method: memory banks, a Gaussian.

A baseline learns one product from its training features and scores patches of that product: it
knows the product of every image. Its features are those of the flow, except for the strong bank,
which uses each group of layers separately.

For `benchmarks.accuracy`, `ablation` and `drift`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.harness.products import Scorer
from moleflow_pl.features.groups import FeatureGroups
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.flow.whitening import WhiteningAdapter
from moleflow_pl.scoring.bank_search import BankVectors, projection_distance
from moleflow_pl.scoring.memory_bank import coreset

BANK = 8000  # patches in the memory bank of a product
CORESET = 4000  # patches; in half precision as large as the method's banks
STRONG = 2000  # patches of each group of layers
MOST_CANDIDATES = 2**18  # patches that a coreset is chosen from
CHUNK = 2048  # patches whose distances are computed at once
RANDOM_BANK = "memory bank (random subsampling)"
CORESET_BANK = "memory bank (coreset)"
WHITENED_BANK = "memory bank (whitened, random subsampling)"
STRONG_BANK = "strong memory bank (groups apart, normalised, coreset, soft projection)"
GAUSSIAN = "Gaussian"

Baseline = Callable[[Tensor, int, FeatureGroups], Scorer]


def nearest_in(bank: Tensor) -> Scorer:
    """Distance of each patch to the nearest row of a memory bank (M, D)."""

    def score(patches: Tensor) -> Tensor:
        rows = patches.flatten(0, -2).split(CHUNK)
        nearest = torch.cat([torch.cdist(part, bank).amin(1) for part in rows])
        return nearest.reshape(patches.shape[:-1])

    return score


def sample_patches(features: Tensor, seed: int, count: int = BANK) -> Tensor:
    """At most `count` patches, drawn from features (N, h, w, D) without repetition."""
    rows = features.flatten(0, 2)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:count]]


def whitening_of(features: Tensor) -> WhiteningAdapter:
    """Whitening by the mean and covariance of features (N, h, w, D)."""
    statistics = FeatureStatistics(features.shape[-1])
    for part in features.split(64):
        statistics.update(part)
    adapter = WhiteningAdapter(features.shape[-1]).requires_grad_(False)
    adapter.fit(statistics)
    return adapter


def random_bank(train: Tensor, seed: int, groups: FeatureGroups) -> Scorer:
    """Distance to the nearest patch of a random subsample of the training patches."""
    nearest = nearest_in(sample_patches(groups.joined(train), seed))
    return lambda features: nearest(groups.joined(features))


def coreset_bank(train: Tensor, seed: int, groups: FeatureGroups) -> Scorer:
    """Distance to the nearest patch of a coreset: PatchCore without its weights."""
    nearest = nearest_in(coreset_of(groups.joined(train), seed, CORESET))
    return lambda features: nearest(groups.joined(features))


def coreset_of(features: Tensor, seed: int, count: int) -> Tensor:
    """A coreset (M, D) of all patches of features (N, h, w, D)."""
    rows = sample_patches(features, seed, MOST_CANDIDATES)
    generator = torch.Generator().manual_seed(seed)
    return rows[coreset(rows, min(count, len(rows)), generator)]


def strong_bank(train: Tensor, seed: int, groups: FeatureGroups) -> Scorer:
    """Sum over the groups of layers of the distances to soft projections on coresets."""
    banks = [BankVectors(coreset_of(part, seed, STRONG)) for part in groups.split(train)]

    def score(features: Tensor) -> Tensor:
        pairs = zip(groups.split(features), banks, strict=True)
        return torch.stack([projection_distance(part, bank) for part, bank in pairs]).sum(0)

    return score


def whitened_bank(train: Tensor, seed: int, groups: FeatureGroups) -> Scorer:
    """Distance to the nearest patch of a random subsample, after whitening."""
    train = groups.joined(train)
    adapter = whitening_of(train)
    nearest = nearest_in(adapter(sample_patches(train, seed)))
    return lambda features: nearest(adapter(groups.joined(features)))


def gaussian(train: Tensor, seed: int, groups: FeatureGroups) -> Scorer:
    """Squared Mahalanobis distance of each patch to one Gaussian of all training patches."""
    adapter = whitening_of(groups.joined(train))
    return lambda features: adapter(groups.joined(features)).square().sum(-1)


BASELINES: Mapping[str, Baseline] = {
    RANDOM_BANK: random_bank,
    CORESET_BANK: coreset_bank,
    STRONG_BANK: strong_bank,
    WHITENED_BANK: whitened_bank,
    GAUSSIAN: gaussian,
}
