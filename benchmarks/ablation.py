"""The value of each default: one setting changed at a time, on the products of `accuracy`.

    python -m benchmarks.ablation defaults --root DATA --weights WEIGHTS
    python -m benchmarks.ablation patch-fraction --root DATA
    python -m benchmarks.ablation resolution --root DATA --weights WEIGHTS
    python -m benchmarks.ablation routing --root DATA --weights WEIGHTS
    python -m benchmarks.ablation parts --root DATA --weights WEIGHTS
    python -m benchmarks.ablation image-score --root DATA --weights WEIGHTS
    python -m benchmarks.ablation draws --root DATA --weights WEIGHTS
    python -m benchmarks.ablation variants --root DATA --weights WEIGHTS

`defaults` changes how an expert learns, its features, and how patches and images are scored, mostly
back to `configs/seed.yaml`. `patch-fraction` trains with a quarter of the patches and with fewer
epochs; it exits with 1 if a quarter costs more than 0.005 in equally many epochs. `resolution`
compares a ViT at 224 and 392 pixels on the last product, learned first; it exits with 1 if pixel AP
is too close to a memory bank's.

`routing` compares kinds of prototypes: routing accuracy on good images that were not trained on
(test images, if there are no others), whole, damaged and in other light, which choose a kind; and
on defective test images, which confirm the choice.

The others compare on one model of each backbone, which learns all products, in their order, with a
fifth of their good images for calibration. `parts` compares the parts of a patch's score, alone and
added; `image-score` compares ways from the scores of an image's patches to its own; `draws` chooses
the memory banks again with other seeds, and exits with 1 where image AUROC spreads too far.
`variants` learns no flow: it compares memory banks that also choose among variants of the good
images (`data.variants`). `--judged` shows only some of the products: choose by these, then confirm
by the others.

Figures are oracle results, means over seeds. A stopped run resumes. Prints a table, and finally a
line of JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.harness.baselines import RANDOM_BANK
from benchmarks.harness.command_line import (
    add_judged_argument,
    add_study_arguments,
    script_parser,
    sources_of,
    studies_of,
    study_of,
    subject_parsers,
)
from benchmarks.harness.one_model import draws, image_score, parts
from benchmarks.harness.plans import CNN, VIT, Backbone, Recipe
from benchmarks.harness.products import AS_DEFAULT, AS_PUBLISHED, METRICS, ImageScore
from benchmarks.harness.prototype_kinds import compare_kinds
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.harness.study import Result, Study, scores_named
from benchmarks.harness.variant_banks import variants
from benchmarks.literal import FEATURES
from moleflow_pl.scoring.functional import patch_nll
from moleflow_pl.scoring.patch_scores import BankSearch, PatchFeatures, PatchScore

FLOW = Recipe("flow", scores=("norm", "nll"))
LEARNING = {
    "FiLM adapter, not counted": Recipe("film", {"adapter": "film"}),
    "no adapter": Recipe("no-adapter", {"use_task_adapter": False}),
    "LoRA strength 1 of 32": Recipe("alpha-1", {"lora_alpha": 1.0}),
    "learning rate 1e-4": Recipe("lr-1e-4", lr=1e-4),
    "learning rate 1e-4, 40 epochs": Recipe("lr-1e-4-40", epochs=40, lr=1e-4),
    "tail loss": Recipe("tail", {"loss": "tail"}),
    "no position code": Recipe("no-position", {"use_position": False}),
    "a tenth as calibration images": Recipe("calibration", val_fraction=0.1),
}
CNN_FEATURES: dict[str, dict[str, Any]] = {
    "not averaged": {"smooth": 1},
    "96 channels": {"layers": [2, 3], "target_embed_dim": 96},  # more than a single level has
}
IMAGE_SCORES = {
    "images scored by the .99 quantile": AS_PUBLISHED,
    "images scored by the highest 2 %": AS_DEFAULT,
    "images scored by the highest 1 %": ImageScore("tail", 0.99),
    "images scored by the highest patch": ImageScore("tail", 1.0),
}
END = Recipe("end", {"score": "bank"}, scores=("bank",))
DEPTHS = Recipe("depths", {"score": ["depths", "groups"]}, scores=("depths", "depths+groups"))
POSITION = Recipe("position", VIT.method.model | {"use_position": True}, scores=(VIT.score,))
FRACTION_EPOCHS = 40
FRACTIONS = [(0.25, 40), (0.25, 20), (0.25, 10)]  # share of the patches, epochs
FRACTION_COLUMNS = ("norm, oracle", "bank, oracle")
FRACTION_COST = -0.005
SIZES = {224: 0.0, 392: 0.04}  # pixels a side, and least pixel AP above the memory bank's
RESOLUTION_COLUMNS = {"memory bank": f"{VIT.score}, oracle", "no memory bank": "norm, oracle"}
SEEDS = {"defaults": (0, 1), "patch-fraction": (0, 1, 2), "resolution": (0, 1, 2)}
ON_ONE_MODEL: dict[str, Callable[..., None]] = {
    "parts": parts, "image-score": image_score, "draws": draws, "variants": variants,
}  # fmt: skip
BACKBONE_OF = {"patch-fraction": CNN.key, "resolution": VIT.key}  # where there is no choice


class AveragedNll(PatchScore):
    """The NLL with its log-determinant averaged over the image, as the method was published."""

    name = "nll-averaged"

    def __call__(self, flow: Any, features: PatchFeatures, task: Any, search: BankSearch) -> Tensor:
        """In nats."""
        latent, log_det = flow(features.joined, task)
        return patch_nll(latent, log_det.mean((1, 2), keepdim=True))


@dataclass
class Change:
    """A changed setting, and how its result is computed.

    Attributes:
        what: The change, in words.
        study: The study with the features it needs.
        recipe: How its model is trained.
        score: A patch score of the recipe, or another one for the trained model.
        image: The image score, if it is not the backbone's.
    """

    what: str
    study: Study
    recipe: Recipe
    score: str | PatchScore
    image: ImageScore | None = None

    def results(self, seed: int) -> dict[str, Result]:
        """Oracle results of every product."""
        order = self.study.products
        run = self.study.run(self.recipe, seed, order)
        if isinstance(self.score, str) and self.image is None:
            column = f"{self.score}, oracle"
            return {name: results[column] for name, results in run.products.items()}
        name = self.score if isinstance(self.score, str) else self.score.name
        key = f"{self.study.run_key(self.recipe, seed, order)}-{name}-by-image-score"
        results = self.study.cached(key, partial(self._score_again, seed))
        return results[(self.image or self.study.image_score).key]

    def _score_again(self, seed: int) -> Result:
        """Results by image score; patches are scored once for all of them."""
        order = self.study.products
        model = self.study.load(self.recipe, seed, order)
        score = self.score
        scores = scores_named(score) if isinstance(score, str) else [score]
        model.inspector.set_patch_scores(scores)
        images = {*IMAGE_SCORES.values(), self.study.image_score}
        results: Result = {image.key: {} for image in images}
        for task, product in enumerate(map(self.study.features, order)):
            patches = product.scores(partial(model.inspector.patch_scores, task=task))
            for image in images:
                results[image.key][product.name] = product.result(patches, image)
        return results


def image_changes(study: Study, recipe: Recipe, score: str) -> list[Change]:
    """The other image scores."""
    others = {what: image for what, image in IMAGE_SCORES.items() if image != study.image_score}
    return [Change(what, study, recipe, score, image) for what, image in others.items()]


def compare(report: Report, title: str, seeds: Sequence[int], changes: Sequence[Change]) -> None:
    """Means over seeds, with the difference to the first change."""
    first: dict[tuple[str, str], float] = {}
    for change in changes:
        runs = [change.results(seed) for seed in seeds]
        for product in change.study.products:
            for metric in METRICS:
                if runs[0][product][metric] is None:
                    continue
                value = statistics.mean(run[product][metric] for run in runs)
                apart = value - first.setdefault((product, metric), value)
                note = "" if change is changes[0] else f"{apart:+.3f}"
                row = f"{title}, {change.what}: {product}, {metric}"
                report.add(Row(row, value, "", note=note))


StudyOf = Callable[[Backbone], Study]


def cnn_defaults(report: Report, seeds: Sequence[int], study_of: StudyOf) -> None:
    """How an expert learns without a memory bank, and how it scores with one."""
    study, method = study_of(CNN), CNN.method
    others = {what: study_of(CNN.with_features(what, **new)) for what, new in CNN_FEATURES.items()}
    flow = [
        Change("the defaults", study, FLOW, "norm"),
        Change("score NLL", study, FLOW, "nll"),
        Change("score NLL, log-det averaged", study, FLOW, AveragedNll()),
        *(Change(what, study, recipe, "norm") for what, recipe in LEARNING.items()),
        *(Change(f"features {what}", other, FLOW, "norm") for what, other in others.items()),
        *image_changes(study, FLOW, "norm"),
    ]
    bank = [
        Change("memory banks, as in the demo", study, method, CNN.score),
        Change("no memory bank", study, method, "norm"),
        Change("bank at the flow's end alone", study, END, "bank"),
        Change("bank half-way through the flow too", study, DEPTHS, "depths+groups"),
        Change("the same, no banks of groups", study, DEPTHS, "depths"),
        Change("features not averaged", others["not averaged"], method, CNN.score),
        *image_changes(study, method, CNN.score),
    ]
    compare(report, f"{CNN.name}, no memory bank", seeds, flow)
    compare(report, f"{CNN.name}, memory bank", seeds, bank)


def vit_defaults(report: Report, seeds: Sequence[int], study_of: StudyOf) -> None:
    """Choice of features, and of the depths of the flow that memory banks hold."""
    study, method = study_of(VIT), VIT.method
    last = study_of(VIT.with_features("blocks 8 to 11", layers=FEATURES["layers"]))
    averaged = study_of(VIT.with_features("averaged", smooth=3))
    bank = [
        Change("memory bank, as in the presets", study, method, VIT.score),
        Change("bank at the flow's end alone", study, END, "bank"),
        Change("no memory bank", study, method, "norm"),
        Change("bank in the flow's depths alone", study, method, "depths"),
        Change("banks of groups of blocks alone", study, method, "groups"),
        Change("position code", study, POSITION, VIT.score),
        Change("blocks 8 to 11", last, method, VIT.score),
        Change("features averaged", averaged, method, VIT.score),
        *image_changes(study, method, VIT.score),
    ]
    flow = [
        Change("the defaults", study, method, "norm"),
        Change("features averaged", averaged, method, "norm"),
        *image_changes(study, method, "norm"),
    ]
    compare(report, f"{VIT.name}, memory bank", seeds, bank)
    compare(report, f"{VIT.name}, no memory bank", seeds, flow)


def defaults(
    report: Report, seeds: Sequence[int], study_of: StudyOf, backbones: Sequence[str]
) -> None:
    """Every default, on the backbones of those keys."""
    for key, part in {CNN.key: cnn_defaults, VIT.key: vit_defaults}.items():
        if key in backbones:
            part(report, seeds, study_of)


def fraction_recipe(share: float, epochs: int) -> Recipe:
    """The defaults with a share of the patches in each step."""
    model = {"score": "bank", "patch_fraction": share}  # one bank, since this is about the flow
    return Recipe(f"share{share}-{epochs}", model, epochs, scores=("norm", "bank"))


def fraction_figures(study: Study, recipe: Recipe, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Every metric over seeds, and the seconds of the later products."""
    figures: dict[str, list[float]] = {}
    for run in [study.run(recipe, seed, study.products) for seed in seeds]:
        for product, results in run.products.items():
            for column in FRACTION_COLUMNS:
                for metric in METRICS:
                    if (value := results[column][metric]) is not None:
                        figures.setdefault(f"{metric} of {product}, {column}", []).append(value)
        figures.setdefault("seconds", []).extend(run.facts["fit_seconds"][1:])
    return figures


def patch_fraction(report: Report, seeds: Sequence[int], study_of: StudyOf) -> None:
    """A quarter of the patches and fewer epochs, against all patches in most epochs."""
    study = study_of(CNN)
    whole = fraction_figures(study, fraction_recipe(1.0, FRACTION_EPOCHS), seeds)
    for share, epochs in FRACTIONS:
        figures = fraction_figures(study, fraction_recipe(share, epochs), seeds)
        title = f"{share:g} of the patches, {epochs} epochs"
        seconds, all_seconds = map(statistics.mean, (figures.pop("seconds"), whole["seconds"]))
        note = f"{seconds:.0f} s a product against {all_seconds:.0f}"
        report.add(Row(f"{title}: time", seconds / all_seconds, "x", note=note))
        limits = {"least": FRACTION_COST} if epochs == FRACTION_EPOCHS else {}
        for what, values in figures.items():
            report.add(fraction_row(f"{title}: {what}", values, whole[what], limits))


def fraction_row(
    what: str, values: Sequence[float], whole: Sequence[float], limits: Mapping[str, float]
) -> Row:
    """A metric by seed beside that of all patches."""
    mean, full = statistics.mean(values), statistics.mean(whole)
    apart = [a - b for a, b in zip(values, whole, strict=True)]
    note = f"{mean:.3f} against {full:.3f}; by seed {min(apart):+.3f} to {max(apart):+.3f}"
    return Row(what, mean - full, "", note=note, **limits)


def resolution(report: Report, seeds: Sequence[int], study_of: StudyOf) -> None:
    """A ViT at two sizes of the image, beside the random memory bank on the same features."""
    for size, least in SIZES.items():
        backbone = VIT.with_features(f"at {size}", image_size=size)
        study = study_of(replace(backbone, name=VIT.name.replace("224", str(size))))
        (product,) = study.products
        runs = [study.run(VIT.method, seed, [product]).products[product] for seed in seeds]
        banks = [
            study.baseline(RANDOM_BANK, seed, [study.image_score]).products[product]
            for seed in seeds
        ]
        for metric in METRICS:
            bank = statistics.mean(run[study.image_score.key][metric] for run in banks)
            name = study.backbone.name
            report.add(Row(f"{name}: {RANDOM_BANK}, {metric}", bank, ""))
            for what, column in RESOLUTION_COLUMNS.items():
                value = statistics.mean(run[column][metric] for run in runs)
                limits = {"least": least} if (metric, what) == ("pixel_ap", "memory bank") else {}
                row = f"{name}: the method, {what}, {metric} above it"
                report.add(Row(row, value - bank, "", note=f"{value:.3f}", **limits))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    for name, subject in subject_parsers(parser, [*SEEDS, "routing", *ON_ONE_MODEL]).items():
        add_study_arguments(subject, only=BACKBONE_OF.get(name))
        if name in ON_ONE_MODEL:
            add_judged_argument(subject)
    return parser.parse_args()


def parts_of(given: argparse.Namespace) -> Sequence[Callable[[Report], None]]:
    """The parts of a subject."""
    if given.subject == "routing":
        return [partial(compare_kinds, study=study) for study in studies_of(given)]
    seeds = given.seeds or SEEDS.get(given.subject, (0,))
    if compare_scores := ON_ONE_MODEL.get(given.subject):
        judged = given.judged or given.products
        return [
            partial(compare_scores, study=study, seeds=seeds, judged=judged)
            for study in studies_of(given)
        ]
    sources = sources_of(given)
    if given.subject == "resolution":
        sources = sources[-1:]
    subjects: dict[str, Callable[..., None]] = {
        "defaults": partial(defaults, backbones=given.backbones),
        "patch-fraction": patch_fraction,
        "resolution": resolution,
    }
    studies = partial(study_of, given=given, sources=sources)
    return [partial(subjects[given.subject], seeds=seeds, study_of=studies)]


def main() -> int:
    """Fit, compare, print."""
    given = parse()
    return benchmark(f"ablation {given.subject}", *parts_of(given))


if __name__ == "__main__":
    sys.exit(main())
