"""What each difference from the method as first written down is worth.

    python -m benchmarks.ablation --root DATA --weights vit_small_patch14_dinov2.safetensors

Takes the defaults and changes one at a time, most of them back to `configs/seed.yaml`'s, on the
products of `benchmarks.accuracy`, solar_mono learned first: how an expert learns on the small CNN
without latents, and what it looks at and compares where latents are stored, on both backbones.
Goes on where it was stopped. Prints image AUROC by own expert and pixel AP of the tiles, means over
seeds, and how far they are from the defaults; one line of JSON last.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.accuracy import CNN, OURS, TILE, VIT, backbones_parser, study_of
from benchmarks.accuracy_runs import (
    AS_DEFAULT,
    AS_PUBLISHED,
    PRODUCTS,
    ImageScore,
    Recipe,
    Result,
    Study,
    measured,
)
from benchmarks.literal import FEATURES
from benchmarks.timing import Report, Row, benchmark
from moleflow_pl.scoring.functional import patch_nll
from moleflow_pl.scoring.patch_scores import Nearest, PatchScore

PLAIN = Recipe("plain", scores=("norm", "nll"))
LEARNING = {
    "FiLM adapter, not counted": Recipe("film", {"adapter": "film"}),
    "no adapter": Recipe("no-adapter", {"use_task_adapter": False}),
    "LoRA strength 1 of 32": Recipe("alpha-1", {"lora_alpha": 1.0}),
    "learning rate 1e-4": Recipe("lr-1e-4", lr=1e-4),
    "learning rate 1e-4, 40 epochs": Recipe("lr-1e-4-40", epochs=40, lr=1e-4),
    "tail loss": Recipe("tail", {"loss": "tail"}),
    "no position code": Recipe("no-position", {"use_position": False}),
    "a tenth held out": Recipe("held-out", val_fraction=0.1),
}
FEATURES_OF_CNN: dict[str, dict[str, Any]] = {
    "not averaged": {"smooth": 1},
    "96 channels": {"target_embed_dim": 96},
}
IMAGES = {
    "images scored by the .99 quantile": AS_PUBLISHED,
    "images scored by the highest 2 %": AS_DEFAULT,
    "images scored by the highest 1 %": ImageScore("tail", 0.99),
    "images scored by the highest patch": ImageScore("tail", 1.0),
}
DEPTHS = Recipe("depths", {"score": "depths"}, scores=("depths",))
POSITION = Recipe("position", OURS[VIT].model | {"use_position": True}, scores=("depths",))
END = Recipe("end", OURS[VIT].model | {"score": "bank"}, scores=("bank",))


class AveragedNll(PatchScore):
    """The NLL with its log-determinant averaged over the image, as the method was published."""

    name = "nll-averaged"

    def __call__(self, flow: Any, features: Tensor, task: Any, nearest: Nearest) -> Tensor:
        """In nats."""
        latent, log_det = flow(features, task)
        return patch_nll(latent, log_det.mean((1, 2), keepdim=True))


@dataclass
class Line:
    """A change, and how it is read.

    Attributes:
        what: The change.
        study: Runs on the features that it is made on.
        recipe: How its model is trained.
        score: Which of the recipe's scores, or another that the trained model is asked for.
        image: How an image is scored, if not as the recipe says; the trained model is asked.
    """

    what: str
    study: Study
    recipe: Recipe
    score: str | PatchScore
    image: ImageScore | None = None

    def of(self, seed: int) -> dict[str, Result]:
        """Metrics of every product by its own expert."""
        found = self.study.run(self.recipe, seed, PRODUCTS[0])["products"]
        if isinstance(self.score, str) and self.image is None:
            return {name: one[f"{self.score}, told"] for name, one in found.items()}
        name = self.score if isinstance(self.score, str) else self.score.name
        key = f"{self.recipe.name}-{name}-asked-{seed}"
        asked = self.study.result(key, partial(self._asked, seed))
        return asked[(self.image or self.study.image_score).key]

    def _asked(self, seed: int) -> Result:
        """The same by every way of scoring an image: patches are scored once for all."""
        run = self.study.run_folder(self.recipe, seed, PRODUCTS[0])
        model = self.study.load(run / "last.ckpt")
        if isinstance(self.score, str):
            model.score_by(self.score)
        else:
            model.patch_score = self.score
        found: Result = {image.key: {} for image in IMAGES.values()}
        for task, one in enumerate(map(self.study.product, PRODUCTS)):
            patches = one.scores(partial(model.patch_scores, task=task))
            for image in IMAGES.values():
                found[image.key][one.name] = measured(one, patches, image)
        return found


def by_image_scores(study: Study, recipe: Recipe, score: str) -> list[Line]:
    """The other ways of scoring an image."""
    others = {what: image for what, image in IMAGES.items() if image != study.image_score}
    return [Line(what, study, recipe, score, image) for what, image in others.items()]


def compare(report: Report, title: str, seeds: Sequence[int], lines: Sequence[Line]) -> None:
    """Means over seeds, and how far they are from the first line's."""
    first: dict[tuple[str, str], float] = {}
    for line in lines:
        runs = [line.of(seed) for seed in seeds]
        for product in PRODUCTS:
            for metric in ("image_auroc", *(["pixel_ap"] if product == TILE else [])):
                value = statistics.mean(run[product][metric] for run in runs)
                apart = value - first.setdefault((product, metric), value)
                row = f"{title}, {line.what}: {product}, {metric}"
                report.add(Row(row, value, "", note=f"{apart:+.3f}" if line != lines[0] else ""))


def on_the_cnn(report: Report, given: argparse.Namespace) -> None:
    """How an expert learns without latents, and what they are compared with where they are."""
    study, ours = study_of(given, CNN), OURS[CNN]
    others = {what: study_of(given, CNN, what, new) for what, new in FEATURES_OF_CNN.items()}
    pure = [
        Line("the defaults", study, PLAIN, "norm"),
        Line("score NLL", study, PLAIN, "nll"),
        Line("score NLL, its log-det averaged", study, PLAIN, AveragedNll()),
        *(Line(what, study, recipe, "norm") for what, recipe in LEARNING.items()),
        *(Line(f"features {what}", other, PLAIN, "norm") for what, other in others.items()),
        *by_image_scores(study, PLAIN, "norm"),
    ]
    kept = [
        Line("latents stored, as in the demo", study, ours, "bank"),
        Line("none stored", study, ours, "norm"),
        Line("compared half-way too", study, DEPTHS, "depths"),
        Line("features not averaged", others["not averaged"], ours, "bank"),
        *by_image_scores(study, ours, "bank"),
    ]
    compare(report, f"{CNN}, none stored", given.seeds, pure)
    compare(report, f"{CNN}, stored", given.seeds, kept)


def on_the_vit(report: Report, given: argparse.Namespace) -> None:
    """Which blocks are looked at, and where latents are compared."""
    study, ours = study_of(given, VIT), OURS[VIT]
    last = study_of(given, VIT, "blocks 8 to 11", {"layers": FEATURES["layers"]})
    averaged = study_of(given, VIT, "averaged", {"smooth": 3})
    lines = [
        Line("latents stored, as in the presets", study, ours, "depths"),
        Line("compared at the flow's end alone", study, END, "bank"),
        Line("none stored", study, ours, "norm"),
        Line("position code", study, POSITION, "depths"),
        Line("blocks 8 to 11", last, ours, "depths"),
        Line("features averaged", averaged, ours, "depths"),
        *by_image_scores(study, ours, "depths"),
    ]
    compare(report, f"{VIT}, stored", given.seeds, lines)
    pure = [
        Line("the defaults", study, ours, "norm"),
        Line("features averaged", averaged, ours, "norm"),
        *by_image_scores(study, ours, "norm"),
    ]
    compare(report, f"{VIT}, none stored", given.seeds, pure)


def main() -> int:
    """Fit, compare, print."""
    given = backbones_parser(__doc__, seeds=[0, 1]).parse_args()
    ways = {CNN: on_the_cnn, VIT: on_the_vit}
    parts = [partial(way, given=given) for name, way in ways.items() if name in given.backbones]
    return benchmark("ablation", *parts)


if __name__ == "__main__":
    sys.exit(main())
