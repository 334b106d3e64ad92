"""Drift of a line: how soon it is reported, and what it does to decisions that nobody adapts.

    python -m benchmarks.drift monitor --root DATA --weights vit_small_patch14_dinov2.safetensors
    python -m benchmarks.drift protocol --root DATA --weights WEIGHTS

Learns the products of `benchmarks.accuracy` with a fifth of their images for calibration.

`monitor` samples good images that were not trained on with replacement: 10,000 unchanged ones,
which must not raise an alarm; and 200 unchanged ones followed by images in other light, blurred, or
from a moved camera, until drift is reported.

`protocol` changes test images step by step, after the drifting tiles of DINOSaur (Rethinking
Continual Anomaly Detection on the Edge, arXiv:2605.24251): their colour, their sharpness, their
geometry; the strengths are this script's own. Nothing is learned from changed images. It shows
image AUROC, routing accuracy, and false alarms at the threshold of 1 %, beside memory banks that
know the product and have thresholds by the same rule and images. `--judged` shows only some of the
products.

Both print a table, and finally a line of JSON.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional

from benchmarks.harness.baselines import BASELINES, CORESET_BANK, STRONG_BANK
from benchmarks.harness.command_line import (
    add_judged_argument,
    add_study_arguments,
    script_parser,
    studies_of,
    subject_parsers,
)
from benchmarks.harness.plans import calibrated
from benchmarks.harness.products import BATCH, ProductSource, evenly, loader_of
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.harness.study import Study
from moleflow_pl import MoLEFlow, Prediction
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.inference.drift import DriftMonitor
from moleflow_pl.metrics.image import auroc
from moleflow_pl.tasks.thresholds import limit

GOOD_IMAGES = 200  # of a product, at most, to sample the line's images from
STEADY = 10_000
BEFORE = 200  # steady images before a change
LONGEST = 2000  # images after a change
REPEATS = 5
TESTED = 30  # good test images of a product under the protocol, and as many defective ones
STEPS = 3  # of each drift; the last has its full strength
TINT = 0.3  # by which red grows and blue falls
SIGMA = 2.0  # of the blur, in pixels of the image that the model sees
DEGREES, ZOOM = 12.0, 0.1
OURS = "the method, routed"
RIVALS = (CORESET_BANK, STRONG_BANK)

Change = Callable[[Tensor], Tensor]


def shifted(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) from a camera that has moved by a twentieth of what it sees."""
    down, right = (round(side / 20) for side in images.shape[2:])
    padded = functional.pad(images, [right, down, 0, 0], padding_mode="edge")
    return padded[:, :, : images.shape[2], : images.shape[3]]


CHANGES: dict[str, Change] = {
    **{
        f"brightness {factor - 1:+.0%}": partial(
            functional.adjust_brightness, brightness_factor=factor
        )
        for factor in (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
    },
    "blur": partial(functional.gaussian_blur, kernel_size=[9, 9], sigma=[1.5, 1.5]),
    "camera shifted by 5 %": shifted,
}


def tinted(images: Tensor, strength: float) -> Tensor:
    """Images (B, 3, H, W) uint8 under a lamp that has become warmer."""
    gains = torch.tensor([1 + TINT * strength, 1.0, 1 - TINT * strength])[:, None, None]
    return (images * gains).round().clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor, strength: float) -> Tensor:
    """Images (B, 3, H, W) of a lens that is out of focus."""
    return functional.gaussian_blur(images, [13, 13], [SIGMA * strength] * 2)


def turned(images: Tensor, strength: float) -> Tensor:
    """Images (B, 3, H, W) of a camera that has turned and come closer."""
    height, width = images.shape[2:]
    # what comes into sight is what lies inside, mirrored
    wide = functional.pad(images, [width // 2, height // 2], padding_mode="reflect")
    bilinear = functional.InterpolationMode.BILINEAR
    angle, scale = DEGREES * strength, 1 + ZOOM * strength
    moved = functional.affine(wide, angle, [0, 0], scale, [0.0], interpolation=bilinear)
    return functional.center_crop(moved, [height, width])


DRIFTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "colour": tinted,
    "blur": blurred,
    "geometry": turned,
}


def good_images(source: ProductSource, size: tuple[int, int]) -> list[Tensor]:
    """Batches of good images that were not trained on."""
    good = [*source.unused(), *(record for record in source.test() if not record.gt_label)]
    return [batch["image"] for batch in loader_of(evenly(good, GOOD_IMAGES), size)]


def predictions(
    model: MoLEFlow, batches: Sequence[Tensor], change: Change | None = None
) -> list[Prediction]:
    """Predictions for batches of images, changed or unchanged."""
    decisions, inspector, result = DecisionMaker(model.schedule), model.inspector, []
    with torch.inference_mode():
        for images in batches:
            seen = images if change is None else change(images)
            inspection = inspector.inspect(inspector.extractor(seen))
            size = (seen.shape[2], seen.shape[3])
            result += decisions.decide(inspection, [size] * len(seen), seen)
    return result


def drawn(
    pool: Sequence[Prediction], count: int, generator: np.random.Generator
) -> Iterator[Prediction]:
    """Predictions sampled from a pool with replacement."""
    return (pool[i] for i in generator.integers(len(pool), size=count))


def false_alarms(model: MoLEFlow, pool: Sequence[Prediction]) -> tuple[int, int]:
    """Number of drift reports without a change, and number of images with a warning."""
    monitor, drifts, warnings = DriftMonitor(DecisionMaker(model.schedule)), 0, 0
    for prediction in drawn(pool, STEADY, np.random.default_rng(0)):
        state = monitor.add(prediction).state
        warnings += state == "warning"
        if state == "drift":
            drifts += 1
            monitor.restart(prediction.product)
    return drifts, warnings


def images_until_seen(
    model: MoLEFlow, steady: Sequence[Prediction], changed: Sequence[Prediction], seed: int
) -> tuple[int, str]:
    """Changed images until drift is reported after a steady start, and the reporting channel."""
    generator, monitor = np.random.default_rng(seed), DriftMonitor(DecisionMaker(model.schedule))
    monitor.watch(drawn(steady, BEFORE, generator))
    for count, prediction in enumerate(drawn(changed, LONGEST, generator), start=1):
        drift = monitor.add(prediction)
        if drift.state == "drift":
            return count, drift.changes[0].channel
    return LONGEST, f"none within {LONGEST} images"


def rows_of(name: str, model: MoLEFlow, batches: Sequence[Tensor]) -> Iterator[Row]:
    """All figures of one product."""
    steady = predictions(model, batches)
    drifts, warnings = false_alarms(model, steady)
    note = f"{STEADY} images sampled from {len(steady)}; a warning at {warnings} of them"
    yield Row(f"{name}, steady: drift reported", drifts, "times", most=0, note=note)
    for what, change in CHANGES.items():
        changed = predictions(model, batches, change)
        runs = [images_until_seen(model, steady, changed, seed) for seed in range(REPEATS)]
        median = statistics.median(count for count, _ in runs)
        note = f"median of {REPEATS}, reported by {', '.join(dict.fromkeys(by for _, by in runs))}"
        yield Row(f"{name}, {what}: images until drift", median, "images", note=note)


@dataclass(frozen=True)
class Judgements:
    """What something says of images.

    Attributes:
        scores: Image scores (N,).
        alarms: Which images it does not call normal (N,), bool.
        right: Which images it takes for the right product (N,), bool.
    """

    scores: Tensor
    alarms: Tensor
    right: Tensor


Judge = Callable[[Tensor], Judgements]  # of features (N, h, w, W)


def judge_by_model(model: MoLEFlow, task: int) -> Judge:
    """The model, which routes the images."""
    decisions = DecisionMaker(model.schedule)

    def judge(features: Tensor) -> Judgements:
        found = model.inspector.inspect(features)
        decided = decisions.decisions(found.task, found.score, found.novelty_distance)
        alarms = torch.tensor([decision["label"] != "normal" for decision in decided])
        return Judgements(found.score, alarms, found.task == task)

    return judge


def judge_by_bank(study: Study, name: str, product: str) -> Judge:
    """A memory bank of the product, with a threshold by the same rule."""
    train, good = study.split(calibrated(study.backbone.method), product)
    groups = study.plain_model.inspector.extractor.groups
    scorer, image_score = BASELINES[name](train, 0, groups), study.image_score
    threshold = limit(image_score(scorer(good)).tolist())

    def judge(features: Tensor) -> Judgements:
        scores = image_score(scorer(features))
        return Judgements(scores, scores > threshold, torch.ones(len(scores), dtype=torch.bool))

    return judge


def protocol_images(source: ProductSource, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Test images (N, 3, H, W), good ones and then defective ones, and which are defective."""
    records = source.test()
    kinds = ([record for record in records if bool(record.gt_label) == bad] for bad in (0, 1))
    chosen = [record for kind in kinds for record in evenly(kind, TESTED)]
    defective = torch.tensor([bool(record.gt_label) for record in chosen])
    return torch.cat([batch["image"] for batch in loader_of(chosen, size)]), defective


def drifted(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Images as they are, and after each step of each drift, with a name."""
    yield "no drift", images
    for what, drift in DRIFTS.items():
        for step in range(1, STEPS + 1):
            yield f"{what} {step} of {STEPS}", drift(images, step / STEPS)


def protocol_rows(study: Study, model: MoLEFlow, product: str) -> Iterator[Row]:
    """All figures of one product under the protocol."""
    judges = {OURS: judge_by_model(model, study.products.index(product))}
    judges |= {name: judge_by_bank(study, name, product) for name in RIVALS}
    extractor = model.inspector.extractor
    images, defective = protocol_images(study.sources[product], extractor.image_size)
    for what, changed in drifted(images):
        features = torch.cat([extractor(part) for part in changed.split(BATCH)])
        for name, judge in judges.items():
            found = judge(features)
            yield Row(
                f"{product}, {what}, {name}: image_auroc", auroc(found.scores, defective.long()), ""
            )
            alarms = found.alarms[~defective].double().mean().item()
            note = f"{found.alarms[defective].double().mean():.0%} of the defective images found"
            yield Row(f"{product}, {what}, {name}: false alarms", 100 * alarms, "%", note=note)
            if name == OURS:
                right = found.right.double().mean().item()
                yield Row(f"{product}, {what}, {name}: routing accuracy", right, "")


def learned(study: Study) -> MoLEFlow:
    """A model of all products, with calibration images."""
    recipe = calibrated(study.backbone.method)
    study.learn(recipe, 0, study.products)
    return study.load(recipe, 0, study.products)


def monitor(report: Report, study: Study, judged: Sequence[str]) -> None:
    """How soon drift is reported, on one backbone."""
    model = learned(study)
    for name in judged:
        batches = good_images(study.sources[name], model.inspector.extractor.image_size)
        for row in rows_of(name, model, batches):
            report.add(replace(row, what=f"{study.backbone.name}: {row.what}"))


def protocol(report: Report, study: Study, judged: Sequence[str]) -> None:
    """What drift does to decisions, on one backbone."""
    model = learned(study)
    with torch.inference_mode():
        for name in judged:
            for row in protocol_rows(study, model, name):
                report.add(replace(row, what=f"{study.backbone.name}: {row.what}"))


SUBJECTS: dict[str, Callable[..., None]] = {"monitor": monitor, "protocol": protocol}


def main() -> int:
    """Learn, watch, print."""
    parser = script_parser(__doc__)
    for subject in subject_parsers(parser, SUBJECTS).values():
        add_study_arguments(subject)
        add_judged_argument(subject)
    given = parser.parse_args()
    part = partial(SUBJECTS[given.subject], judged=given.judged or given.products)
    parts = (partial(part, study=study) for study in studies_of(given))
    return benchmark(f"drift {given.subject}", *parts)


if __name__ == "__main__":
    sys.exit(main())
