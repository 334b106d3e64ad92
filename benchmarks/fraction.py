"""What it costs to learn from a part of every image's patches, and from fewer epochs.

    python -m benchmarks.fraction --root DATA

Fits the three products of `benchmarks.accuracy` on the small backbone with all patches in every
step and with a quarter of them, for 40 epochs and fewer, and compares image AUROC and pixel AP,
each by its own expert, means over seeds. Goes on where it was stopped. Prints a table, and one line
of JSON last; exits with 1 where a quarter costs more than 0.005 in as many epochs.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import Any

from benchmarks.accuracy import small_study, study_parser
from benchmarks.accuracy_runs import PRODUCTS, Recipe, Study
from benchmarks.products import METRICS
from benchmarks.timing import Report, Row, benchmark

EPOCHS = 40
ROUTING_MODES = ("norm, told", "bank, told")
OTHERS = [(0.25, 40), (0.25, 20), (0.25, 10)]


def recipe(share: float, epochs: int) -> Recipe:
    """The method's defaults but for these."""
    options = {"score": "bank", "patch_fraction": share}
    return Recipe(f"share{share}-{epochs}", options, epochs, scores=("norm", "bank"))


def figures(study: Study, one: Recipe, seeds: list[int]) -> dict[str, list[float]]:
    """Every metric by what it is of, over seeds, and the seconds of a later product."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        run = study.run(one, seed, PRODUCTS[0])
        for product in PRODUCTS:
            for way in ROUTING_MODES:
                for metric in METRICS:
                    value = run["products"][product][way][metric]
                    if value is not None:
                        found.setdefault(f"{metric} of {product}, {way}", []).append(value)
        found.setdefault("seconds", []).extend(run["fit_seconds"][1:])
    return found


def compare(report: Report, study: Study, seeds: list[int]) -> None:
    """Shares and epochs against all patches in the most epochs."""
    whole = figures(study, recipe(1.0, EPOCHS), seeds)
    for share, epochs in OTHERS:
        found = figures(study, recipe(share, epochs), seeds)
        title = f"{share:g} of the patches, {epochs} epochs"
        for what, values in found.items():
            mean, full = statistics.mean(values), statistics.mean(whole[what])
            if what == "seconds":
                note = f"{mean:.0f} s a product against {full:.0f}"
                report.add(Row(f"{title}: time", mean / full, "x", note=note))
                continue
            bound: dict[str, Any] = {"least": -0.005} if epochs == EPOCHS else {}
            apart = [a - b for a, b in zip(values, whole[what], strict=True)]
            note = f"{mean:.3f} against {full:.3f}; by seed {min(apart):+.3f} to {max(apart):+.3f}"
            report.add(Row(f"{title}: {what}", mean - full, "", note=note, **bound))


def main() -> int:
    """Fit, compare, print."""
    given = study_parser(__doc__, seeds=[0, 1, 2]).parse_args()
    return benchmark("fraction", partial(compare, study=small_study(given), seeds=given.seeds))


if __name__ == "__main__":
    sys.exit(main())
