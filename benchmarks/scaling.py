"""How time, memory and disk space grow with the number of products and images.

    python -m benchmarks.scaling

Weights and images are random: neither time nor memory depends on them. Prints a table, and finally
a line of JSON; exits with 1 if a figure misses its limit.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.harness.command_line import add_small_argument, script_parser
from benchmarks.harness.fits import TINY, random_images
from benchmarks.harness.measure import PeakMemory, alternate
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.literal import FEATURES
from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints import io as checkpoint_files
from moleflow_pl.checkpoints.expert_edits import extract
from moleflow_pl.checkpoints.io import plain, write_checkpoint
from moleflow_pl.data.batches import Batch
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.model.restore import HYPER_PARAMETERS, load_inspector

BATCH = 16
COMMAND = "from moleflow_pl.cli.main import main; main()"
BARE_IMPORT = "import lightning.pytorch.cli"
LEAST_THROUGHPUT, MOST_ROUTING = 95, 5  # %
MOST_EXPERT_MB, MOST_GROWN_MB = 10, 200
MOST_HASH = (50, 0.02)  # ms, and share of the time of loading; the larger counts
MOST_HELP_SECONDS, MOST_HELP_RATIO = 1.5, 1.3


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements.

    Attributes:
        model: Arguments of `MoLEFlow`.
        disk_model: The same where the size of an expert is measured.
        experts: Experts of the model whose throughput is measured.
        products: Products among which an image is routed.
        sealed: Experts in the checkpoint whose hash is timed.
        images: Numbers of images to score; memory is measured with the last.
        rounds: Rounds in which alternatives are timed.
    """

    model: dict[str, Any]
    disk_model: dict[str, Any]
    experts: int = 100
    products: int = 1000
    sealed: int = 55
    images: tuple[int, ...] = (1, 100, 10_000)
    rounds: int = 21


VIT_S = {
    "backbone": "vit_small_patch14_dinov2", "image_size": 224, "backbone_weights": "random",
    **FEATURES,
}  # fmt: skip
FULL = Sizes(VIT_S, {**VIT_S, "backbone": "vit_base_patch14_dinov2"})
SMALL = Sizes(TINY, TINY, experts=3, products=5, sealed=3, images=(1, 32), rounds=2)


def untrained_model(arguments: dict[str, Any], tasks: int) -> MoLEFlow:
    """A model that knows `tasks` products by random prototypes."""
    torch.manual_seed(0)
    model = MoLEFlow(**arguments)
    model.schedule.extend([[f"product {i}"] for i in range(tasks)], epochs=1)
    for task in range(tasks):
        model.learner.begin_task(task)
        draw_prototypes(model, task)
        model.schedule.tasks[task].epochs_done = 1
    return model.eval()


def draw_prototypes(model: MoLEFlow, task: int) -> None:
    """Give a task prototypes of random features."""
    generator = torch.Generator().manual_seed(task)
    shift = 4 * (task % 7)
    for prototype in model.inspector.add_prototypes(task):
        statistics = FeatureStatistics(model.inspector.extractor.dim, prototype.regions)
        statistics.update(torch.randn(4, *prototype.mean.shape, generator=generator) + shift)
        prototype.set(statistics)


def score(model: MoLEFlow, images: Tensor, tasks: Tensor) -> Tensor:
    """Score images by given experts; routing is measured by itself."""
    inspector = model.inspector
    with torch.no_grad():
        features = inspector.extractor(images)
        joined = inspector.joined(features)
        distances = inspector.router.distances(inspector.image_features(joined))
        inspector.novelty_distances(joined, distances, tasks)
        return inspector.patch_scores(features, tasks)


def throughput(report: Report, sizes: Sizes) -> None:
    """Many experts in turn, against one."""
    model, single = (untrained_model(sizes.model, tasks) for tasks in (sizes.experts, 1))
    images = random_images(model.inspector.extractor, BATCH)
    for task in range(sizes.experts):
        model.inspector.novelty_router.root(task)  # computed once for a product
    # hardly any expert of a batch is merged already
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randint, sizes.experts, (BATCH,), generator=generator)
    sides: dict[str, Callable[[], Any]] = {
        "one": partial(score, single, images, torch.zeros(BATCH, dtype=torch.long)),
        "many": lambda: score(model, images, draw()),
    }
    seconds = alternate(sides, rounds=sizes.rounds)
    ratio, each = 100 * seconds["one"] / seconds["many"], 1000 * seconds["one"] / BATCH
    note = f"{BATCH} images of random products, scored by the norm, {each:.0f} ms an image"
    what = f"throughput, {sizes.experts} experts against 1"
    report.add(Row(what, ratio, "%", least=LEAST_THROUGHPUT, note=note))


def routing(report: Report, sizes: Sizes) -> None:
    """Time to find the nearest of many products, or none, relative to the time of an image."""
    knowing, single = (untrained_model(sizes.model, tasks) for tasks in (0, 1))
    for task in range(sizes.products):
        draw_prototypes(knowing, task)
    many = knowing.inspector
    extractor = single.inspector.extractor
    image, features = random_images(extractor, 1), torch.randn(1, *extractor.shape)

    @torch.no_grad()
    def route() -> None:
        seen, distances = many.measure_distances(features)
        many.novelty_distances(features, distances, many.router.choose(distances, seen))

    score_one = partial(score, single, image, torch.zeros(1, dtype=torch.long))
    seconds = alternate({"route": route, "image": score_one}, rounds=sizes.rounds)
    note = (
        f"{1000 * seconds['route']:.2f} ms of {1000 * seconds['image']:.0f} ms, "
        f"D = {extractor.dim}; the pair of nearest products was cached"
    )
    share = 100 * seconds["route"] / seconds["image"]
    what = f"routing among {sizes.products:,} products"
    report.add(Row(what, share, "%", most=MOST_ROUTING, note=note))


def disk(report: Report, sizes: Sizes) -> None:
    """Size of an expert file with prototypes and calibration."""
    model = untrained_model(sizes.disk_model, 0)
    model.schedule.extend([["product"]], epochs=1)
    batches: list[Batch] = [{"image": random_images(model.inspector.extractor, 8)}]
    model.learner.begin_task(0)
    model.learner.finish_task(0, batches)
    model.schedule.tasks[0].epochs_done = 1
    model.learner.calibrate_task(0, batches, false_alarm_rate=0.01)
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "expert.safetensors"
        extract(checkpoint, "product").save(path)
        size = path.stat().st_size / 1e6
    rank = model.hparams["lora_rank"]
    what = f"disk for an expert, D = {model.inspector.extractor.dim}, rank {rank}"
    report.add(Row(what, size, "MB", most=MOST_EXPERT_MB))


def hashing(report: Report, sizes: Sizes) -> None:
    """Loading a checkpoint, against the same without its hash."""
    model = untrained_model(sizes.model, sizes.sealed)
    arguments = {HYPER_PARAMETERS: plain(dict(model.hparams))}
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict(), **arguments}
    model.on_save_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        write_checkpoint(checkpoint, path)
        size = path.stat().st_size / 1e6

        def load_unchecked() -> None:
            with (
                mock.patch.object(checkpoint_files, "content_hash", return_value=""),
                mock.patch.object(checkpoint_files, "require_seal"),
            ):
                load_inspector(path)

        sides: dict[str, Callable[[], Any]] = {
            "load": partial(load_inspector, path), "unchecked": load_unchecked
        }  # fmt: skip
        seconds = alternate(sides, rounds=sizes.rounds)
    hashed = 1000 * (seconds["load"] - seconds["unchecked"])
    note = f"{size:.0f} MB, {sizes.sealed} products; loading takes {seconds['load']:.2f} s"
    most = max(MOST_HASH[0], 1000 * MOST_HASH[1] * seconds["load"])
    report.add(Row("hash of a checkpoint that is loaded", hashed, "ms", most=most, note=note))


def many_images(report: Report, sizes: Sizes) -> None:
    """Time for each of many images, and growth of memory over all of them."""
    model = untrained_model(sizes.model, 3)
    seconds, grown = {}, 0.0
    for count in sizes.images:
        with PeakMemory() as memory:
            stream_once = partial(stream, model, count)
            seconds[count] = alternate({"score": stream_once}, rounds=1, warm=count < 1000)["score"]
        grown = memory.grown_mb
    times = ", ".join(f"{n}: {1000 * s / n:.2f} ms" for n, s in seconds.items())
    what = f"memory grown by {sizes.images[-1]:,} images"
    note = f"{times} an image, flow alone"
    report.add(Row(what, grown, "MB", most=MOST_GROWN_MB, note=note))


def stream(model: MoLEFlow, count: int) -> None:
    """Score features of `count` images, a batch at a time, as a loader would bring them."""
    features = torch.randn(BATCH, *model.inspector.extractor.shape)
    with torch.no_grad():
        for start in range(0, count, BATCH):
            model.inspector.inspect(features[: min(BATCH, count - start)])


def startup(report: Report, sizes: Sizes) -> None:
    """Time of the command's help, and of a verb's help relative to importing LightningCLI."""

    def python(code: str, *arguments: str) -> Any:
        command = [sys.executable, "-c", code, *arguments]
        return partial(subprocess.run, command, check=True, capture_output=True)

    sides = {
        "help": python(COMMAND, "--help"),
        "fit help": python(COMMAND, "fit", "--help"),
        "import": python(BARE_IMPORT),
    }
    seconds = alternate(sides, rounds=min(5, sizes.rounds))
    report.add(Row("moleflow --help", seconds["help"], "s", most=MOST_HELP_SECONDS))
    ratio = seconds["fit help"] / seconds["import"]
    note = (
        f"{seconds['fit help']:.1f} s, the import of lightning.pytorch.cli "
        f"{seconds['import']:.1f} s"
    )
    what = "moleflow fit --help against the import"
    report.add(Row(what, ratio, "x", most=MOST_HELP_RATIO, note=note))


PARTS = (startup, disk, hashing, routing, throughput, many_images)


def main() -> int:
    """Measure, print."""
    parser = script_parser(__doc__)
    add_small_argument(parser)
    sizes = SMALL if parser.parse_args().small else FULL
    return benchmark("scaling", *(partial(part, sizes=sizes) for part in PARTS))


if __name__ == "__main__":
    sys.exit(main())
