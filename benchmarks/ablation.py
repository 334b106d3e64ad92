"""What each difference from the method as first written down is worth.

    python -m benchmarks.ablation --root DATA

Takes the defaults and changes one at a time, most of them back to `configs/seed.yaml`'s, on the
products and the small backbone of `benchmarks.accuracy`, solar_mono learned first. Goes on where it
was stopped. Prints a table of image AUROC by own expert and pixel AP of the tiles, means over
seeds, and one line of JSON last.
"""

from __future__ import annotations

import statistics

from benchmarks.accuracy import TILE, small_study, study_parser
from benchmarks.accuracy_runs import PRODUCTS, Recipe
from benchmarks.timing import Report, Row

PLAIN = Recipe("plain", scores=("norm", "nll"))
VARIANTS = {
    "FiLM adapter, not counted": Recipe("film", {"adapter": "film"}),
    "no adapter": Recipe("no-adapter", {"use_task_adapter": False}),
    "LoRA strength 1 of 32": Recipe("alpha-1", {"lora_alpha": 1.0}),
    "learning rate 1e-4": Recipe("lr-1e-4", lr=1e-4),
    "learning rate 1e-4, 40 epochs": Recipe("lr-1e-4-40", epochs=40, lr=1e-4),
    "tail loss": Recipe("tail", {"loss": "tail"}),
}


def main() -> None:
    """Fit, compare, print."""
    given = study_parser(__doc__, seeds=[0, 1]).parse_args()
    study, report = small_study(given), Report("ablation")
    lines = [("the defaults", PLAIN, "norm"), ("score NLL", PLAIN, "nll")]
    lines += [(what, recipe, "norm") for what, recipe in VARIANTS.items()]
    for what, recipe, score in lines:
        runs = [study.run(recipe, seed, PRODUCTS[0])["products"] for seed in given.seeds]
        for product in PRODUCTS:
            for metric in ("image_auroc", *(["pixel_ap"] if product == TILE else [])):
                value = statistics.mean(run[product][f"{score}, told"][metric] for run in runs)
                report.add(Row(f"{what}: {product}, {metric}", value, ""))
    report.finish()


if __name__ == "__main__":
    main()
