"""Drift of a line: false alarms while nothing changes, and images until a change is detected.

    python -m benchmarks.drift --root DATA --weights vit_small_patch14_dinov2.safetensors

Learns the products of `benchmarks.accuracy` with a fifth of their images for calibration. Then good
images that were not trained on are sampled with replacement: 10,000 unchanged ones, which must not
raise an alarm; and 200 unchanged ones followed by images in other light, blurred, or from a moved
camera, until drift is reported. Prints a table, and finally a line of JSON.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import functional

from benchmarks.harness.plans import BACKBONES, sources_of, study_parser
from benchmarks.harness.products import BATCH, ProductSource, evenly
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.harness.study import Study
from moleflow_pl import MoLEFlow, Prediction
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.inference.drift import DriftMonitor

VAL_FRACTION = 0.2
GOOD_IMAGES = 200  # of a product, at most, to sample the line's images from
STEADY = 10_000
BEFORE = 200  # steady images before a change
LONGEST = 2000  # images after a change
REPEATS = 5

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


def good_images(source: ProductSource, size: tuple[int, int]) -> list[Tensor]:
    """Batches of good images that were not trained on."""
    trained = {record.path for record in source.train()}
    rest = [record for record in source.all_train() if record.path not in trained]
    rest += [record for record in source.test() if not record.gt_label]
    images = ImageDataset(evenly(rest, GOOD_IMAGES), 0, size)
    return [batch["image"] for batch in DataLoader(images, BATCH, collate_fn=images.collate)]


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


def measure(report: Report, study: Study) -> None:
    """All products on one backbone."""
    recipe = replace(study.backbone.method, val_fraction=VAL_FRACTION)
    study.run(recipe, 0, study.products)
    model = study.load(recipe, 0, study.products)
    for name, source in study.sources.items():
        batches = good_images(source, model.inspector.extractor.image_size)
        for row in rows_of(name, model, batches):
            report.add(replace(row, what=f"{study.backbone.name}: {row.what}"))


def main() -> int:
    """Learn, watch, print."""
    given = study_parser(__doc__).parse_args()
    backbones = [BACKBONES[key].with_weights(given.weights) for key in given.backbones]
    limit = 1 if given.small else None
    studies = [Study(backbone, sources_of(given), given.folder, limit) for backbone in backbones]
    return benchmark("drift", *(partial(measure, study=study) for study in studies))


if __name__ == "__main__":
    sys.exit(main())
