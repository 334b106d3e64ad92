"""What parts of a score, image scores and draws of memory banks are worth, on one learned model.

For `parts`, `image-score` and `draws` of `benchmarks.ablation`. Patches are scored once for all
comparisons. Figures are oracle results, means over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness.parts import DRAW_IMAGES, NEAREST, aurocs_of_draws, part_maps
from benchmarks.harness.plans import calibrated
from benchmarks.harness.products import GUIDED, METRICS
from benchmarks.harness.report import Report, Row
from benchmarks.harness.study import Study
from moleflow_pl.metrics.image import auroc
from moleflow_pl.scoring.functional import TAIL_QUANTILE, anomaly_map, tail_mean

PRESETS = "as in the presets"
DRAWS = 10
MOST_SPREAD = 0.004  # from the worst image AUROC of a draw to the best
SHARES = (0.005, 0.01, 0.02, 0.05)  # of the patches or pixels that count
TOP = 0.01  # share of a map whose mean is a part of its structure
ROWS = 64  # maps that are blurred at once

Figures = Mapping[str, Mapping[str, float]]  # by what is compared, and by product
# patch scores of images to score (N, h, w), and of good images (M, h, w) -> scores (N,)
ImageWay = Callable[[Tensor, Tensor], Tensor]


def highest_patches(patches: Tensor, good: Tensor, share: float) -> Tensor:
    """Mean of the highest share of an image's patches."""
    return tail_mean(patches, 1 - share)


def highest_pixels(patches: Tensor, good: Tensor, share: float) -> Tensor:
    """Mean of the highest share of the pixels of an image's blurred map."""
    return torch.cat([tail_mean(anomaly_map(part), 1 - share) for part in patches.split(ROWS)])


def descriptor(patches: Tensor) -> Tensor:
    """Standard deviation, mean of the highest 1 %, and total variation of maps: (N, 3).

    Example:
        >>> descriptor(torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]))
        tensor([[1., 2., 2.]])
    """
    down = (patches[:, 1:] - patches[:, :-1]).abs().mean((1, 2))
    across = (patches[:, :, 1:] - patches[:, :, :-1]).abs().mean((1, 2))
    spread = patches.flatten(1).std(1)
    return torch.stack([spread, tail_mean(patches, 1 - TOP), down + across], 1)


def structure(patches: Tensor, good: Tensor) -> Tensor:
    """Diagonal Mahalanobis distance of a map's descriptor from those of good images.

    References: Chae et al. 2026, StructCore, arXiv:2602.17048, as far as its abstract tells.
    """
    known = descriptor(good)
    return ((descriptor(patches) - known.mean(0)) / known.std(0)).square().sum(1).sqrt()


def with_structure(patches: Tensor, good: Tensor) -> Tensor:
    """The tail mean in standard deviations of good images', and the distance of the structure."""
    known = tail_mean(good, TAIL_QUANTILE)
    standardised = (tail_mean(patches, TAIL_QUANTILE) - known.mean()) / known.std()
    return standardised + structure(patches, good)


IMAGE_WAYS: dict[str, ImageWay] = {
    **{f"highest {s:.1%} of the patches": partial(highest_patches, share=s) for s in SHARES},
    **{f"highest {s:.1%} of the blurred map": partial(highest_pixels, share=s) for s in SHARES},
    "structure alone": structure,
    "highest 2.0% of the patches, with structure": with_structure,
}
DEFAULT_WAY = f"highest {1 - TAIL_QUANTILE:.1%} of the patches"


def changes_of(study: Study) -> dict[str, tuple[str, ...]]:
    """What is compared: the parts of a score, by its name in the table."""
    banks = study.backbone.parts
    return {
        PRESETS: (*banks,),
        "the norm added": ("norm", *banks),
        **{f"{name} alone": (name,) for name in banks},
        "no memory bank": ("norm",),
        "no soft projection": tuple(name + NEAREST for name in banks),
    }


def add_differences(report: Report, title: str, figures: Figures, first: str) -> None:
    """Figures beside those of the first, then their means, and the worst difference of each."""
    for what, found in figures.items():
        apart = {product: value - figures[first][product] for product, value in found.items()}
        for product, value in found.items():
            note = "" if what == first else f"{apart[product]:+.4f}"
            report.add(Row(f"{title}, {what}: {product}", value, "", note=note))
        mean = statistics.mean(apart.values())
        note = f"{mean:+.4f}, the worst of {len(found)} products {min(apart.values()):+.4f}"
        value = statistics.mean(found.values())
        report.add(Row(f"{title}, {what}: mean", value, "", note="" if what == first else note))


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean over seeds; None where a product has no such figure."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def parts(report: Report, study: Study, seeds: Sequence[int], judged: Sequence[str]) -> None:
    """What each part of a patch's score is worth."""
    recipe = calibrated(study.backbone.method)
    figures: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in (*METRICS, GUIDED)}
    for product in judged:
        maps, features = [part_maps(study, recipe, s, product) for s in seeds], study.features
        for what, names in changes_of(study).items():
            totals = [one.total(names)[0] for one in maps]
            found = [features(product).both_maps(total, study.image_score) for total in totals]
            for metric, of in figures.items():
                if (mean := mean_of([one[metric] for one in found])) is not None:
                    of.setdefault(what, {})[product] = mean
    for metric, of in figures.items():
        if of:
            add_differences(report, f"{study.backbone.name}, {metric}", of, PRESETS)


def image_score(report: Report, study: Study, seeds: Sequence[int], judged: Sequence[str]) -> None:
    """Ways from the scores of an image's patches to that of the image."""
    recipe, names = calibrated(study.backbone.method), study.backbone.parts
    figures: dict[str, dict[str, float]] = {way: {} for way in IMAGE_WAYS}
    for product in judged:
        labels = study.features(product).defective.long()
        totals = [part_maps(study, recipe, seed, product).total(names) for seed in seeds]
        for way, score in IMAGE_WAYS.items():
            if (mean := mean_of([auroc(score(*total), labels) for total in totals])) is not None:
                figures[way][product] = mean
    add_differences(report, f"{study.backbone.name}, image_auroc", figures, DEFAULT_WAY)


def draws(report: Report, study: Study, seeds: Sequence[int], judged: Sequence[str]) -> None:
    """How far image AUROC spreads where the memory banks alone are drawn again."""
    recipe = calibrated(study.backbone.method)
    for product in judged:
        for seed in seeds:
            found = aurocs_of_draws(study, recipe, seed, product, DRAWS)
            deviation = statistics.stdev(found)
            note = f"mean {statistics.mean(found):.4f}, standard deviation {deviation:.4f}"
            what = (
                f"{study.backbone.name}, seed {seed}, {DRAWS} draws, at most {DRAW_IMAGES} images"
            )
            spread = max(found) - min(found)
            report.add(Row(f"{what}: {product}", spread, "", most=MOST_SPREAD, note=note))
