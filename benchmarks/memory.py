"""Memory of learning, of `predict`, and of many products in one process.

    python -m benchmarks.memory fit
    python -m benchmarks.memory predict
    python -m benchmarks.memory products

`fit` learns a product with large features on disk, in a fresh process, after one batch through the
real backbone; the other features are random, because the backbone would take hours. `predict`
writes scores and heatmaps of 10,000 images with a small model that it first learns from random
images: whether memory grows with the number of images does not depend on the model. `products`
loads a checkpoint of 1,000 products with random tensors (5 GB on disk), inspects batches of random
products, and compares the throughput with that of a model of one product. Prints a table, and
finally a line of JSON; exits with 1 if a figure misses its limit.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from benchmarks.harness.command_line import add_small_argument, script_parser, subject_parsers
from benchmarks.harness.fits import TINY, draw_noise, learn, random_images
from benchmarks.harness.many_products import write_products
from benchmarks.harness.measure import (
    PeakMemory,
    alternate,
    anonymous_mb,
    in_fresh_process,
    resident_mb,
)
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.literal import FEATURES
from moleflow_pl import ContinualDataModule, MoLEFlow, PatchExtractor, Predictor
from moleflow_pl.callbacks import PredictionWriter
from moleflow_pl.cli.lightning import TRAINER_DEFAULTS

FIT_IMAGES, PREDICTED_IMAGES = 1000, 10_000
LEARNED_IMAGES = 40  # of the product of `predict`
LARGE: dict[str, Any] = {
    "backbone": "vit_base_patch14_dinov2", "image_size": 518, "backbone_weights": "random",
    **FEATURES,
}  # fmt: skip
SIDE = TINY["image_size"]
MOST_FIT_GB = 4.0
WARM = 0.1  # share of the images after which everything is loaded
MOST_PREDICT_MB = 20.0  # leaked heatmaps would take more: 12 kB each
PRODUCTS, VECTORS = 1000, 4000  # vectors in the bank of a product
MANY: dict[str, Any] = {
    **LARGE, "backbone": "vit_small_patch14_dinov2", "image_size": 224, "score": "bank",
}  # fmt: skip
MOST_PRODUCTS_GB, LEAST_THROUGHPUT = 2.0, 95
PRODUCT_BATCH, PRODUCT_ROUNDS = 16, 21


class RandomFeatures(PatchExtractor):
    """Returns random features of the right shape without running the backbone."""

    def forward(self, images: Tensor) -> Tensor:
        """Random features (B, h, w, D)."""
        return torch.randn(len(images), *self.shape)


def fit_peak_mb(images: int = FIT_IMAGES, small: bool = False) -> float:
    """Learn a product for one epoch; the peak of the anonymous memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        draw_noise(root, 32, {"first": images})
        torch.manual_seed(0)
        model = MoLEFlow(**(TINY if small else LARGE))
        extractor = model.inspector.extractor
        batch = torch.zeros(16, 3, *extractor.image_size, dtype=torch.uint8)
        with PeakMemory() as memory:
            extractor(batch)  # the peak includes the backbone's own
            _ = extractor.shape  # computed once by the backbone, and cached
            extractor.__class__ = RandomFeatures
            learn(model, root, Path(folder), ["first"], 1, num_workers=0 if small else 1)
        return memory.peak_mb


def fit(report: Report, images: int, small: bool) -> None:
    """Peak memory of learning, in a process whose peak nothing else has raised."""
    peak = in_fresh_process(fit_peak_mb, images=images, small=small) * 2**20 / 1e9
    note = f"1 epoch of {images:,} images"
    if not small:
        note += f", 1369 x 768; {images * 1369 * 768 * 4 / 1e9:.1f} GB of features on disk"
    report.add(Row("peak anonymous memory", peak, "GB", most=MOST_FIT_GB, note=note))


class MemoryLog(Callback):
    """Records the memory after every batch of `predict`.

    Attributes:
        samples: Memory in MiB by batch.
    """

    def __init__(self) -> None:
        self.samples: list[float] = []

    def on_predict_batch_end(self, *args: object) -> None:
        """Record it."""
        self.samples.append(anonymous_mb())

    @property
    def grown_mb(self) -> float:
        """Median of the last tenth of the batches above that of the second."""
        tenth = max(int(WARM * len(self.samples)), 1)
        second, last = self.samples[tenth : 2 * tenth], self.samples[-tenth:]
        return float(np.median(last) - np.median(second))


def draw(folder: Path, count: int) -> None:
    """Write `count` grey images of noise; those beyond the first few are copies."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if number < LEARNED_IMAGES:
            noise = generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        else:
            shutil.copy(folder / f"{number % LEARNED_IMAGES:05d}.png", path)


def predict(report: Report, images: int) -> None:
    """Learn a product, predict, and check the memory and what was written."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        draw(where / "data" / "product" / "train" / "good", LEARNED_IMAGES)
        learn(MoLEFlow(**TINY), where / "data", where / "run", ["product"], 1, num_workers=0)
        draw(where / "new", images)
        log, started = MemoryLog(), time.perf_counter()
        predict_folder(where / "run", where / "new", log)
        each = 1000 * (time.perf_counter() - started) / images
        written = where / "run" / "predictions"
        with (written / "predictions.csv").open() as file:
            rows = sum(1 for _ in csv.DictReader(file))
        heatmaps = sum(1 for _ in (written / "heatmaps").glob("*.jpg"))
    note = f"{each:.1f} ms an image; {log.samples[0]:.0f} MB after the first batch"
    report.add(Row("memory grown", log.grown_mb, "MB", most=MOST_PREDICT_MB, note=note))
    report.add(Row("rows", float(rows), "", least=images, most=images))
    report.add(Row("heatmaps", float(heatmaps), "", least=images, most=images))


def predict_folder(run: Path, images: Path, log: MemoryLog) -> None:
    """What `moleflow predict` does with a folder of images."""
    model = MoLEFlow.load_from_checkpoint(run / "last.ckpt")
    data = ContinualDataModule(None, ["product"], num_workers=0, predict_path=str(images))
    trainer = Trainer(
        **{**TRAINER_DEFAULTS, "default_root_dir": run}, accelerator="cpu", logger=False,
        callbacks=[PredictionWriter(), log], enable_progress_bar=False,
    )  # fmt: skip
    trainer.predict(model, data, return_predictions=False)


def products_gb(path: str, count: int, small: bool) -> float:
    """Write a checkpoint of many products; its size in GB."""
    write_products(Path(path), count, {**(TINY if small else MANY), "score": "bank"}, VECTORS)
    return Path(path).stat().st_size / 1e9


def products(report: Report, count: int, small: bool, rounds: int = PRODUCT_ROUNDS) -> None:
    """Memory of a process that knows many products, and its time against that of one."""
    with tempfile.TemporaryDirectory() as folder:
        files = {number: Path(folder) / f"{number}.ckpt" for number in (1, count)}
        sizes = [
            in_fresh_process(products_gb, path=str(file), count=number, small=small)
            for number, file in files.items()
        ]
        with PeakMemory() as memory:
            loading = time.perf_counter()
            many = Predictor.load(files[count], device="cpu")
            loading = time.perf_counter() - loading
            generator = torch.Generator().manual_seed(0)
            for task in range(count):
                many.inspector.novelty_router.root(task)  # computed once for a product
            draw = partial(torch.randint, count, (PRODUCT_BATCH,), generator=generator)
            images = random_images(many.inspector.extractor, PRODUCT_BATCH)
            one = Predictor.load(files[1], device="cpu")
            sides: dict[str, Callable[[], Any]] = {
                "one": partial(inspect, one, images, torch.zeros(PRODUCT_BATCH, dtype=torch.long)),
                "many": lambda: inspect(many, images, draw()),
            }
            seconds = alternate(sides, rounds=rounds)
    note = f"{sizes[-1]:.1f} GB on disk, loaded in {loading:.0f} s; {resident_mb():,.0f} MiB with "
    note += "what of the file is in memory"
    what = f"peak anonymous memory, {count:,} products"
    peak = memory.peak_mb * 2**20 / 1e9
    report.add(Row(what, peak, "GB", most=MOST_PRODUCTS_GB, note=note))
    each = 1000 * seconds["one"] / PRODUCT_BATCH
    note = f"{PRODUCT_BATCH} images of random products at once; one product {each:.0f} ms an image"
    what, ratio = f"throughput, {count:,} products against 1", seconds["one"] / seconds["many"]
    report.add(Row(what, 100 * ratio, "%", least=LEAST_THROUGHPUT, note=note))


def inspect(predictor: Predictor, images: Tensor, tasks: Tensor) -> Tensor:
    """Route images and score them by given experts: the prototypes are random."""
    inspector = predictor.inspector
    with torch.inference_mode():
        features = inspector.extractor(images)
        joined = inspector.joined(features)
        distances = inspector.measure_distances(joined)[1]
        inspector.novelty_distances(joined, distances, tasks)
        return inspector.patch_scores(features, tasks)


def part_of(given: argparse.Namespace) -> Callable[[Report], None]:
    """The part of a subject."""
    if given.subject == "fit":
        return partial(fit, images=given.images, small=given.small)
    if given.subject == "products":
        return partial(products, count=given.products, small=given.small)
    return partial(predict, images=given.images)


def main() -> int:
    """Measure, print."""
    parser = script_parser(__doc__)
    subjects = subject_parsers(parser, ["fit", "predict", "products"])
    for name, images in (("fit", FIT_IMAGES), ("predict", PREDICTED_IMAGES)):
        subjects[name].add_argument("--images", type=int, default=images, help="(%(default)s)")
    subjects["products"].add_argument(
        "--products", type=int, default=PRODUCTS, help="(%(default)s)"
    )
    for name in ("fit", "products"):
        add_small_argument(subjects[name])
    given = parser.parse_args()
    return benchmark(f"memory {given.subject}", part_of(given))


if __name__ == "__main__":
    sys.exit(main())
