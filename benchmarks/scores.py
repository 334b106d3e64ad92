"""What parts of a score, image scores and draws of memory banks are worth, on one learned model.

    python -m benchmarks.scores parts --root DATA --weights vit_small_patch14_dinov2.safetensors
    python -m benchmarks.scores image-score --root DATA --weights WEIGHTS
    python -m benchmarks.scores draws --root DATA --weights WEIGHTS

DINOv2's ViT-S/14 learns all products, in their order, with a fifth of their good images for
calibration. `parts` compares the parts of a patch's score, alone and added; `image-score` compares
ways from the scores of an image's patches to its own; `draws` chooses the memory banks again with
other seeds, and exits with 1 where image AUROC spreads too far. Patches are scored once for all.
`--judged` shows only some of the products: choose by these, then confirm by the others. Figures are
oracle results, means over seeds. A stopped run continues. Prints a table, and one line of JSON
last.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.harness.image_scores import DEFAULT_WAY, IMAGE_WAYS
from benchmarks.harness.parts import DRAW_IMAGES, NEAREST, aurocs_of_draws, part_maps
from benchmarks.harness.plans import (
    BANKS,
    VIT,
    add_judged_argument,
    calibrated,
    sources_of,
    study_parser,
)
from benchmarks.harness.products import METRICS
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.harness.study import Study
from moleflow_pl.metrics.image import auroc

PRESETS = "as in the presets"
CHANGES = {
    PRESETS: ("depths", "groups"),
    "the norm added": ("norm", "depths", "groups"),
    "bank in the flow's depths alone": ("depths",),
    "banks of groups of blocks alone": ("groups",),
    "no memory bank": ("norm",),
    "no soft projection": ("depths" + NEAREST, "groups" + NEAREST),
}
DRAWS = 10
MOST_SPREAD = 0.004  # from the worst image AUROC of a draw to the best

Figures = Mapping[str, Mapping[str, float]]  # by what is compared, and by product


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
    figures: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in METRICS}
    for product in judged:
        maps, features = [part_maps(study, recipe, s, product) for s in seeds], study.features
        for what, names in CHANGES.items():
            totals = [one.total(names)[0] for one in maps]
            found = [features(product).metrics(total, study.image_score) for total in totals]
            for metric, of in figures.items():
                if (mean := mean_of([one[metric] for one in found])) is not None:
                    of.setdefault(what, {})[product] = mean
    for metric, of in figures.items():
        if of:
            add_differences(report, f"{study.backbone.name}, {metric}", of, PRESETS)


def image_score(report: Report, study: Study, seeds: Sequence[int], judged: Sequence[str]) -> None:
    """Ways from the scores of an image's patches to that of the image."""
    recipe, names = calibrated(study.backbone.method), BANKS.split("+")
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


SUBJECTS: dict[str, Callable[..., None]] = {
    "parts": parts,
    "image-score": image_score,
    "draws": draws,
}


def main() -> int:
    """Learn, compare, print."""
    parser = study_parser(__doc__, SUBJECTS)
    add_judged_argument(parser)
    parser.set_defaults(backbones=[VIT.key])
    given = parser.parse_args()
    if given.backbones != [VIT.key]:
        parser.error(f"--backbones must be {VIT.key}: the other has no groups of levels")
    backbone, limit = VIT.with_weights(given.weights), 1 if given.small else None
    study = Study(backbone, sources_of(given), given.folder, limit)
    part = partial(
        SUBJECTS[given.subject], study=study, seeds=given.seeds or (0,),
        judged=given.judged or given.products,
    )  # fmt: skip
    return benchmark(f"scores {given.subject}", part)


if __name__ == "__main__":
    sys.exit(main())
