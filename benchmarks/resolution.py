"""What a finer grid of patches is worth to the pixels: DINOv2's ViT-S/14 at 224 and at 392.

    python -m benchmarks.resolution --root DATA --weights W

The magnetic tiles of `benchmarks.accuracy`, learned as a first product, beside the raw bank on the
same features; both are told the product, and score images alike. Goes on where it was stopped.
Prints a table, and one line of JSON last; exits with 1 where the pixel AP is below the bank's, or
at 392 not .04 above it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial

from benchmarks.accuracy import BACKBONES, OURS, TILE, VIT, study_parser
from benchmarks.accuracy_runs import Study
from benchmarks.products import METRICS
from benchmarks.timing import Report, Row, benchmark

SIZES = {224: 0.0, 392: 0.04}  # pixels a side, and how far pixel AP has to be above the bank's
ROUTING_MODES = {
    "the method, latents stored": "depths, told",
    "the method, none stored": "norm, told",
}


def look(report: Report, given: argparse.Namespace, size: int, least: float) -> None:
    """The method and the bank at one size."""
    options = BACKBONES[VIT][0] | {"image_size": size, "backbone_weights": given.weights}
    name = VIT.replace("224", str(size))
    study = Study(f"{name}, {TILE}", options, given.root, given.folder, [TILE])
    recipe = OURS[VIT]
    ours = [study.run(recipe, seed, TILE)["products"][TILE] for seed in given.seeds]
    raw = [
        study.rival("raw bank", seed, study.image_score)["products"][TILE] for seed in given.seeds
    ]
    for metric in METRICS:
        bank = statistics.mean(run["raw bank"][metric] for run in raw)
        report.add(Row(f"{name}: raw bank, {metric}", bank, ""))
        for what, way in ROUTING_MODES.items():
            above = statistics.mean(run[way][metric] for run in ours) - bank
            judged = metric == "pixel_ap" and way.startswith("depths")
            bound = {"least": least} if judged else {}
            note = f"{above + bank:.3f}"
            report.add(Row(f"{name}: {what}, {metric} above it", above, "", note=note, **bound))


def main() -> int:
    """Fit, compare, print."""
    parser = study_parser(__doc__, seeds=[0, 1, 2])
    parser.add_argument("--weights", default="pretrained", help="of DINOv2's ViT-S/14")
    given = parser.parse_args()
    parts = [partial(look, given=given, size=size, least=least) for size, least in SIZES.items()]
    return benchmark("resolution", *parts)


if __name__ == "__main__":
    sys.exit(main())
