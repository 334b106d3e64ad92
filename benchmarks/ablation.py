"""What each difference from the method as first written down is worth.

    python -m benchmarks.ablation --root DATA --weights vit_small_patch14_dinov2.safetensors

Takes the defaults and changes one at a time, most of them back to `configs/seed.yaml`'s, on the
products of `benchmarks.accuracy`, solar_mono learned first: how an expert learns on the small CNN
without latents, and what it looks at and compares on the ViT. Goes on where it was stopped. Prints
a table of image AUROC by own expert and pixel AP of the tiles, means over seeds, and one line of
JSON last.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

from benchmarks.accuracy import CNN, OURS, TILE, VIT, backbones_parser, small_study, study_of
from benchmarks.accuracy_runs import PRODUCTS, Recipe, Result, Study, measured
from benchmarks.literal import FEATURES
from benchmarks.timing import Report, Row, benchmark
from moleflow_pl import MoLEFlow, inspection

PLAIN = Recipe("plain", scores=("norm", "nll"))
LEARNING = {
    "FiLM adapter, not counted": Recipe("film", {"adapter": "film"}),
    "no adapter": Recipe("no-adapter", {"use_task_adapter": False}),
    "LoRA strength 1 of 32": Recipe("alpha-1", {"lora_alpha": 1.0}),
    "learning rate 1e-4": Recipe("lr-1e-4", lr=1e-4),
    "learning rate 1e-4, 40 epochs": Recipe("lr-1e-4-40", epochs=40, lr=1e-4),
    "tail loss": Recipe("tail", {"loss": "tail"}),
}
POSITION = Recipe("position", OURS[VIT].model | {"use_position": True}, scores=OURS[VIT].scores)
END = Recipe("end", {"score": "bank"}, scores=("bank",))


def show(
    report: Report, what: str, study: Study, recipe: Recipe, score: str, seeds: Sequence[int]
) -> None:
    """Metrics of every product by its own expert."""
    found = [study.run(recipe, seed, PRODUCTS[0])["products"] for seed in seeds]
    add(report, what, [{name: one[f"{score}, told"] for name, one in run.items()} for run in found])


def add(report: Report, what: str, runs: Sequence[dict[str, Result]]) -> None:
    """Means of what was measured of every product."""
    for product in PRODUCTS:
        for metric in ("image_auroc", *(["pixel_ap"] if product == TILE else [])):
            value = statistics.mean(run[product][metric] for run in runs)
            report.add(Row(f"{what}: {product}, {metric}", value, ""))


def kept_alone(study: Study, seed: int) -> dict[str, Result]:
    """What the ViT's run makes of every product when an image says nothing of itself."""

    def make() -> Result:
        run = study.run_folder(OURS[VIT], seed, PRODUCTS[0])
        model = MoLEFlow.load_from_checkpoint(run / "last.ckpt", map_location="cpu").eval()
        with patch.object(inspection, "OWN_IMAGE", 0.0):
            return {
                one.name: measured(one, one.scores(partial(model.patch_scores, task=task)))
                for task, one in enumerate(map(study.product, PRODUCTS))
            }

    return study.result(f"kept-alone-{seed}", make)


def learning(report: Report, given: argparse.Namespace) -> None:
    """How an expert learns, on the small CNN."""
    study = small_study(given)
    lines = [("the defaults", PLAIN, "norm"), ("score NLL", PLAIN, "nll")]
    lines += [(what, recipe, "norm") for what, recipe in LEARNING.items()]
    for what, recipe, score in lines:
        show(report, f"{CNN}, {what}", study, recipe, score, given.seeds)


def looking(report: Report, given: argparse.Namespace) -> None:
    """Which blocks are looked at, and where latents are compared, on the ViT."""
    study, ours, kept = study_of(given, VIT), OURS[VIT], OURS[VIT].model["score"]
    options = study.backbone | {"layers": FEATURES["layers"]}
    last = Study(f"{VIT}, blocks 8 to 11", options, given.root, given.folder)
    for what, place, recipe, score in (
        ("the defaults, latents stored", study, ours, kept),
        ("latents compared at the flow's end alone", study, END, "bank"),
        ("no latents stored", study, ours, "norm"),
        ("position code", study, POSITION, kept),
        ("blocks 8 to 11", last, ours, kept),
    ):
        show(report, f"{VIT}, {what}", place, recipe, score, given.seeds)
    alone = [kept_alone(study, seed) for seed in given.seeds]
    add(report, f"{VIT}, latents compared with kept ones alone", alone)


def main() -> int:
    """Fit, compare, print."""
    given = backbones_parser(__doc__, seeds=[0, 1]).parse_args()
    ways = {CNN: learning, VIT: looking}  # which looks at the last blocks too
    parts = [partial(way, given=given) for name, way in ways.items() if name in given.backbones]
    return benchmark("ablation", *parts)


if __name__ == "__main__":
    sys.exit(main())
