"""What grows with the number of products and images, and what must not.

    python -m benchmarks.scaling

Random weights and noise: neither time nor memory depends on what they are. Prints a table, and
one line of JSON last.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.literal import FEATURES
from benchmarks.memory import Peak
from benchmarks.timing import Report, Row, alternate, benchmark
from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.expert_edits import extract
from moleflow_pl.features.statistics import FeatureStatistics

BACKBONE = {
    "backbone": "vit_small_patch14_dinov2",
    "image_size": 224,
    "backbone_weights": "random",
    **FEATURES,
}
BATCH = 16
BACKBONE_IMPORT = "import lightning.pytorch.cli"


def learned_model(tasks: int, **options: object) -> MoLEFlow:
    """A model that knows `tasks` products, their statistics drawn and not learned."""
    torch.manual_seed(0)
    model = MoLEFlow(**{**BACKBONE, **options})
    model.schedule.extend([[f"product {i}"] for i in range(tasks)], epochs=1)
    for task in range(tasks):
        model.begin_task(task)
        draw_prototypes(model, task)
        model.schedule.tasks[task].epochs_done = 1
    return model.eval()


def draw_prototypes(model: MoLEFlow, task: int) -> None:
    """Give a task prototypes of drawn features."""
    generator = torch.Generator().manual_seed(task)
    shift = 4 * (task % 7)
    for made in model.add_prototypes(task):
        statistics = FeatureStatistics(model.extractor.dim, made.regions)
        statistics.update(torch.randn(4, *made.mean.shape, generator=generator) + shift)
        made.set(statistics)


def score(model: MoLEFlow, images: Tensor, tasks: Tensor) -> Tensor:
    """Score images by given experts; routing is measured by itself."""
    with torch.no_grad():
        features = model.extractor(images)
        distances = model.router.distances(model.image_features(features))
        model.novelty_among(features, distances, tasks)
        return model.patch_scores(features, tasks)


def throughput(report: Report) -> None:
    """A hundred experts in turn, against one."""
    model = learned_model(100)
    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    for task in range(100):
        model.novelty.root(task)  # made once for a product, and all of them kept
    # hardly any of the experts a batch asks for is merged already
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randint, 100, (BATCH,), generator=generator)
    alone = learned_model(1)
    taken = alternate(
        {
            "one": partial(score, alone, images, torch.zeros(BATCH, dtype=torch.long)),
            "hundred": lambda: score(model, images, draw()),
        },
        rounds=21,
    )
    ratio = 100 * taken["one"] / taken["hundred"]
    each = 1000 * taken["one"] / BATCH
    note = f"{BATCH} images of products drawn from 100, ViT-S/14 at 224, {each:.0f} ms an image"
    report.add(Row("throughput, 100 experts against 1", ratio, "%", least=95, note=note))


def routing(report: Report) -> None:
    """Finding the nearest of a thousand products, or that it is none, in the time of an image."""
    dim = 384
    knowing = learned_model(0)
    for task in range(1000):
        draw_prototypes(knowing, task)
    model = learned_model(1)
    image = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    features = torch.randn(1, 16, 16, dim)

    def route() -> None:
        distances = knowing.router.distances(knowing.image_features(features))
        knowing.novelty_among(features, distances, knowing.router.choose(distances))

    taken = alternate(
        {
            "route": route,
            "image": partial(score, model, image, torch.zeros(1, dtype=torch.long)),
        },
        rounds=15,
    )
    share = 100 * taken["route"] / taken["image"]
    note = (
        f"{1000 * taken['route']:.2f} ms of {1000 * taken['image']:.0f} ms, D = {dim}; the two "
        "nearest were neighbours before"
    )
    report.add(Row("routing among 1,000 products", share, "%", most=5, note=note))


def disk(report: Report) -> None:
    """An expert as the file that sites exchange, prototypes and calibration included."""
    model = learned_model(0, backbone="vit_base_patch14_dinov2")
    model.schedule.extend([["product"]], epochs=1)
    pixels = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
    model.begin_task(0)
    model.finish_task(0, [{"image": pixels}])
    model.schedule.tasks[0].epochs_done = 1
    model.calibrate_task(0, [{"image": pixels}], false_alarm_rate=0.01)
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "expert.safetensors"
        extract(checkpoint, "product").save(path)
        size = path.stat().st_size / 1e6
    report.add(Row("disk for an expert, D = 768, rank 32", size, "MB", most=10))


def images(report: Report) -> None:
    """One to 10,000 images: the time of each, and the memory of all."""
    model = learned_model(3)
    seconds, grown = {}, 0.0
    for count in (1, 100, 10_000):
        with Peak() as peak:
            taken = alternate({"score": partial(stream, model, count)}, rounds=1, warm=count < 1000)
        seconds[count] = taken["score"] / count
        grown = peak.grown_mb
    note = (
        ", ".join(f"{n}: {1000 * s:.2f} ms" for n, s in seconds.items()) + " an image, flow alone"
    )
    report.add(Row("memory grown by 10,000 images", grown, "MB", most=200, note=note))


def stream(model: MoLEFlow, count: int) -> None:
    """Score features of `count` images, a batch at a time, as a loader would bring them."""
    features = torch.randn(BATCH, 16, 16, model.extractor.dim)
    with torch.no_grad():
        for start in range(0, count, BATCH):
            model.inspect(features[: min(BATCH, count - start)])


def startup(report: Report) -> None:
    """The command's help, and that of a verb against the bare import it cannot do without."""
    program = [sys.executable, "cli.py"]
    run = partial(subprocess.run, check=True, capture_output=True)
    taken = alternate(
        {
            "help": partial(run, [*program, "--help"]),
            "fit help": partial(run, [*program, "fit", "--help"]),
            "import": partial(run, [sys.executable, "-c", BACKBONE_IMPORT]),
        }
    )
    report.add(Row("moleflow --help", taken["help"], "s", most=1.5))
    ratio = taken["fit help"] / taken["import"]
    note = f"{taken['fit help']:.1f} s, the import of lightning.pytorch.cli {taken['import']:.1f} s"
    report.add(Row("moleflow fit --help against the import", ratio, "x", most=1.3, note=note))


if __name__ == "__main__":
    sys.exit(benchmark("scaling", startup, disk, routing, throughput, images))
