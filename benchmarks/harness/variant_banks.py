"""What variants of good images are worth to a memory bank.

For `variants` of `benchmarks.ablation`. The strong memory bank needs no training, so that many
variants can be compared; its size stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.harness.baselines import STRONG_BANK, strong_bank
from benchmarks.harness.one_model import add_differences, mean_of
from benchmarks.harness.products import METRICS, Values, loader_of
from benchmarks.harness.report import Report
from benchmarks.harness.study import Study
from moleflow_pl.data.feature_store import FeatureStore

UNCHANGED = "no variants"
SETS: dict[str, Sequence[str]] = {
    UNCHANGED: (),
    "hflip": ("hflip",),
    "vflip": ("vflip",),
    "hflip, vflip, rot180": ("hflip", "vflip", "rot180"),
    "tilt_left, tilt_right": ("tilt_left", "tilt_right"),
    "darker, brighter": ("darker", "brighter"),
}


def variant_features(study: Study, product: str, variant: str) -> Tensor:
    """Features (N, h, w, D) of a variant of a product's training images."""
    extractor = study.plain_model.inspector.extractor
    records = [replace(record, variant=variant) for record in study.sources[product].train()]
    store = FeatureStore(study.folder / "features", keep=True, memory_limit=2**40)
    title = f"features of {product} ({variant})"
    return store.get(extractor, loader_of(records, extractor.image_size), title)


def results_of(study: Study, product: str, seeds: Sequence[int]) -> Iterator[tuple[str, Values]]:
    """Metrics of a product by the variants in its memory bank, means over seeds."""
    features, groups = study.features(product), study.plain_model.inspector.extractor.groups
    of_variant = cache(partial(variant_features, study, product))
    for what, variants in SETS.items():
        train = torch.cat([features.train, *map(of_variant, variants)])
        found = [
            features.metrics(features.scores(strong_bank(train, seed, groups)), study.image_score)
            for seed in seeds
        ]
        yield what, {metric: mean_of([one[metric] for one in found]) for metric in METRICS}


def variants(report: Report, study: Study, seeds: Sequence[int], judged: Sequence[str]) -> None:
    """What variants of good images are worth to the strong memory bank."""
    figures: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in METRICS}
    for product in judged:
        for what, values in results_of(study, product, seeds):
            for metric, value in values.items():
                if value is not None:
                    figures[metric].setdefault(what, {})[product] = value
    for metric, of in figures.items():
        if of:
            title = f"{study.backbone.name}, {STRONG_BANK}, {metric}"
            add_differences(report, title, of, UNCHANGED)
