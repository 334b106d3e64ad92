"""Times learning and scoring against the literal method, parts of it, and the backbone alone.

    python -m benchmarks.speed fit
    python -m benchmarks.speed inference
    python -m benchmarks.speed bank
    python -m benchmarks.speed together
    python -m benchmarks.speed inspect
    python -m benchmarks.speed learn
    python -m benchmarks.speed start

`fit` times all of `trainer.fit` from a checkpoint with one product: 40 epochs on another one,
including features, statistics and checkpoints. The literal side would take hours; its backbone pass
and its training step are timed on a few images and multiplied by images and epochs. `inference`
times routing and scoring; the literal side is `benchmarks/literal.py` as it is, with two backbone
passes, and with its position code computed beforehand. `bank` compares the search of memory banks
with its matrix product alone. `together` times two processes on the same cores, by how long waiting
threads keep theirs.

The other subjects tell what is beside the backbone, which no other method saves either. `inspect`
times a decision about decoded images, with router, flow, banks, score and map, in a model of three
products, learned from 250 images each, with the score of the presets. `learn` times one more
product from its first image to its checkpoint, calibration included, against one pass of the
backbone over its images. `start` times a new process from its first import to its first decision.

Sides of a ratio take turns. Weights, images, banks and experts are random: times do not depend on
them. Prints a table, and finally a line of JSON; exits with 1 if a figure misses its limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.beside_backbone import (
    EPOCHS,
    IMAGES,
    measured_models,
    time_inspecting,
    time_learning,
    time_starting,
)
from benchmarks.harness.command_line import add_small_argument, script_parser, subject_parsers
from benchmarks.harness.fits import draw_noise, learn, random_images
from benchmarks.harness.measure import alternate
from benchmarks.harness.report import Report, Row, benchmark
from benchmarks.harness.together import time_together
from benchmarks.literal import FEATURES, LiteralFlow, infer, nll_loss, position_code
from moleflow_pl import MoLEFlow, MoLESpatialAwareNF, PatchExtractor
from moleflow_pl._internal.torch_compat import has_matrix_units
from moleflow_pl.features.extractor import Precision, has_bfloat16
from moleflow_pl.scoring.bank_search import BankVectors, projection_distance

OF_LITERAL = ("fit", "inference", "bank", "together")
BESIDE_BACKBONE = ("inspect", "learn", "start")
PRODUCTS = 3  # in a mixed batch
FLOW_ROUNDS = 15
LEAST_FIT, LEAST_INFERENCE, LEAST_BFLOAT16 = 10, 1.8, 4
MOST_FLOW, MOST_FLOW_MATRIX_UNITS = 1.15, 1.6
MOST_BANK = 1.6


@dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
        name: Its name in the table.
        backbone: A timm model.
        side: Side of the images in pixels.
        images: Images of the product that is learned.
        literal_images: Images that the literal side is timed on.
        batch: Images of a mixed batch.
        layers: Blocks of the backbone.
        epochs: Epochs on the product.
        workers: Processes that read images.
    """

    name: str
    backbone: str
    side: int
    images: int
    literal_images: int
    batch: int
    layers: Sequence[int] = tuple(FEATURES["layers"])
    epochs: int = 40
    workers: int = 1

    def model(self, precision: Precision = "float32") -> MoLEFlow:
        """A model with random weights on the literal method's features."""
        torch.manual_seed(0)
        return MoLEFlow(
            self.backbone, self.layers, self.side, "random", precision=precision,
            use_position=FEATURES["use_position"],
        )  # fmt: skip


SETTINGS = [
    Setting("ViT-S/14 at 224", "vit_small_patch14_dinov2", 224, 64, 16, 12),
    Setting("ViT-B/14 at 518", "vit_base_patch14_dinov2", 518, 8, 2, 3),
]
SMALL_SETTINGS = [Setting("tiny ViT", "test_vit", 64, 4, 2, 3, layers=(0, 1), epochs=2, workers=0)]
FLOWS = [(384, 4096), (768, 5476)]  # channels, patches
SMALL_FLOWS = [(16, 64)]
# images at once, patches of each, channels, vectors in the bank
BANKS = [(1, 256, 384, 4000), (16, 256, 384, 4000), (1, 1369, 768, 4000)]
SMALL_BANKS = [(2, 9, 16, 40)]


def literal_flow(dim: int, tasks: int, use_task_adapter: bool = True) -> LiteralFlow:
    """The literal flow with experts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FrEIA warns of slow rotations
        flow = LiteralFlow(dim, use_task_adapter=use_task_adapter)
    for task in range(tasks):
        flow.add_task(task)
    return flow


class LiteralFit:
    """The pieces of the literal loop for a second product.

    Args:
        extractor: The frozen backbone.
        count: Images that a piece is timed on.
    """

    def __init__(self, extractor: PatchExtractor, count: int) -> None:
        self.extractor = extractor
        self.images = random_images(extractor, count)
        self.flow = literal_flow(extractor.dim, tasks=2)
        self.parameters = self.flow.trainable(1)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-4)
        self.features: Tensor = extractor(self.images)

    def backbone_pass(self) -> None:
        """Compute the features of the images, as every epoch does."""
        self.extractor(self.images)

    def step(self) -> None:
        """One training step on all their patches."""
        self.optimizer.zero_grad()
        nll_loss(*self.flow(self.features)).backward()
        nn.utils.clip_grad_norm_(self.parameters, 0.5)
        self.optimizer.step()


def fit(setting: Setting, root: Path, run: Path, *plan: Any) -> None:
    """One fit of tasks, without calibration images: the literal side learns from every image."""
    learn(setting.model(), root, run, *plan, num_workers=setting.workers, val_fraction=0.0)


def time_fit(report: Report, settings: Sequence[Setting]) -> None:
    """Time one more product."""
    for setting in settings:
        with tempfile.TemporaryDirectory() as folder:
            root, run = Path(folder) / "data", Path(folder) / "run"
            draw_noise(root, setting.side, {"first": 4, "second": setting.images})
            fit(setting, root, run, ["first"], 1)
            literal = LiteralFit(setting.model().inspector.extractor, setting.literal_images)
            more, both = Path(folder) / "more", ["first", "second"]
            known = run / "last.ckpt"
            sides: dict[str, Callable[[], Any]] = {
                "project": partial(fit, setting, root, more, both, setting.epochs, known),
                "backbone": literal.backbone_pass,
                "step": literal.step,
            }
            seconds = alternate(sides, warm=False)
        report.add(fit_row(setting, **seconds))


def fit_row(setting: Setting, project: float, backbone: float, step: float) -> Row:
    """The ratio of one more product, from the seconds of the fit and of the literal pieces."""
    of_image = (backbone + step) / setting.literal_images
    literal = of_image * setting.images * setting.epochs
    pieces = " and ".join(f"{piece / setting.literal_images:.3f} s" for piece in (backbone, step))
    note = (
        f"{setting.images} images: {project:.0f} s, literal {literal:.0f} s (backbone and step of "
        f"one image: {pieces})"
    )
    what = f"one more product, {setting.name}"
    return Row(what, literal / project, "x", least=LEAST_FIT, note=note)


def product_images(product: int, count: int, side: int) -> Tensor:
    """Noise whose brightness depends on the product."""
    noise = torch.rand(count, 3, side, side) * 60 + 60 * product
    return noise.to(torch.uint8)


class MixedBatch:
    """A batch of several products, which the project's model and the literal method know.

    Args:
        setting: Backbone and sizes.
        precision: Precision of the backbone.
    """

    def __init__(self, setting: Setting, precision: Precision = "float32") -> None:
        self.model = setting.model(precision)
        self.extractor = self.model.inspector.extractor
        dim = self.extractor.dim
        self.literal = literal_flow(dim, PRODUCTS)
        self.model.schedule.extend([[f"product {i}"] for i in range(PRODUCTS)], epochs=1)
        self.seen = {}
        for task in range(PRODUCTS):
            images = product_images(task, 4, setting.side)
            self.model.learner.begin_task(task)
            self.model.learner.prepare_task(task, [{"image": images}])
            self.model.learner.finish_task(task, [{"image": images}])
            self.model.schedule.tasks[task].epochs_done = 1
            # images of a product differ by noise alone: more noise gives them a covariance
            pooled = self.extractor(images).mean((1, 2))
            self.seen[task] = pooled.repeat(4, 1) + 0.01 * torch.randn(16, dim)
        self.model.eval()
        self.literal.eval()
        self.code = position_code(dim, *self.extractor.shape[:2]).float()
        each = setting.batch // PRODUCTS
        batch = torch.cat([product_images(i, each, setting.side) for i in range(PRODUCTS)])
        self.images = batch[torch.randperm(len(batch))]

    def score(self) -> Tensor:
        """Scores by the project's model."""
        with torch.no_grad():
            return self.model(self.images).score

    def score_literally(self) -> Tensor:
        """Scores by the literal method."""
        return infer(self.extractor, self.literal, self.seen, self.images, self.code)[1]


def time_mixed_batch(report: Report, settings: Sequence[Setting]) -> None:
    """Time a batch of several products, routing included."""
    for setting in settings:
        batch = MixedBatch(setting)
        sides = {"project": batch.score, "literal": batch.score_literally}
        if has_bfloat16(torch.device("cpu")):
            sides["bfloat16"] = MixedBatch(setting, "bfloat16").score
        seconds = alternate(sides)
        count, name = len(batch.images), f"mixed batch, {setting.name}"
        note = f"{1000 * seconds['project'] / count:.0f} ms an image, {count} of 3 products"
        ratio = seconds["literal"] / seconds["project"]
        report.add(Row(f"{name}, float32", ratio, "x", least=LEAST_INFERENCE, note=note))
        report.add(bfloat16_row(f"{name}, bfloat16", seconds))


def bfloat16_row(what: str, seconds: dict[str, float]) -> Row:
    """The ratio in bfloat16, which has a limit only where the CPU has matrix units."""
    if "bfloat16" not in seconds:
        return Row(what, None, "x", least=LEAST_BFLOAT16, note="no bfloat16")
    ratio = seconds["literal"] / seconds["bfloat16"]
    if has_matrix_units():
        return Row(what, ratio, "x", least=LEAST_BFLOAT16)
    note = f"no matrix units: bfloat16 instructions only: {ratio:.2f} x"
    return Row(what, None, "x", least=LEAST_BFLOAT16, note=note)


def matrix_products(x: Tensor, hidden: Tensor, weights: list[Tensor]) -> None:
    """The matrix products of eight blocks, and nothing else."""
    first, second, rotation = weights
    for _ in range(8):
        _ = x[:, : first.shape[1]] @ first.T
        _ = hidden @ second.T
        _ = x @ rotation.T


def time_flow(report: Report, flows: Sequence[tuple[int, int]]) -> None:
    """Time blocks with a merged expert against their matrix products."""
    for dim, rows in flows:
        torch.manual_seed(0)
        flow = MoLESpatialAwareNF(dim, lora_rank=min(32, dim // 2), use_task_adapter=False)
        for task in (0, 1):
            flow.add_task(task)
        literal = literal_flow(dim, tasks=2, use_task_adapter=False)
        features = torch.randn(1, rows, 1, dim)
        x, hidden = features.reshape(rows, dim), torch.randn(rows, dim)
        weights = [torch.randn(dim, width) for width in (dim // 2, dim, dim)]
        sides = {
            "project": partial(flow, features, 1),
            "literal": partial(literal, features),
            "products": partial(matrix_products, x, hidden, weights),
        }
        with torch.no_grad():
            seconds = alternate(sides, rounds=FLOW_ROUNDS)
        ratio, plain = (seconds[side] / seconds["products"] for side in ("project", "literal"))
        most = MOST_FLOW_MATRIX_UNITS if has_matrix_units() else MOST_FLOW
        note = f"literal {plain:.2f}, {rows} patches"
        report.add(Row(f"flow alone, D = {dim}", ratio, "x", most=most, note=note))


def time_bank(report: Report, banks: Sequence[tuple[int, int, int, int]]) -> None:
    """Time the search of a memory bank against its matrix product, in one piece for an image."""
    for images, patches, channels, vectors in banks:
        torch.manual_seed(0)
        values = torch.randint(-127, 128, (vectors, channels), dtype=torch.int8)
        bank = BankVectors(values, torch.full((vectors, 1), 0.02))
        whole, latents = bank[:].T, torch.randn(images, patches, 1, channels)
        sides: dict[str, Callable[[], Any]] = {
            "search": partial(projection_distance, latents, bank),
            "product": partial(multiply_each, latents.flatten(1, 2), whole),
        }
        with torch.no_grad():
            seconds = alternate(sides)
        ratio, each = seconds["search"] / seconds["product"], 1000 * seconds["search"] / images
        note = f"{each:.1f} ms an image of {patches} patches; {vectors:,} vectors"
        what = f"bank search, D = {channels}, images at once: {images}"
        report.add(Row(what, ratio, "x", most=MOST_BANK, note=note))


def multiply_each(images: Tensor, matrix: Tensor) -> None:
    """Multiply the rows of each image by a matrix, and keep nothing."""
    for rows in images:
        _ = rows @ matrix


def parts_of(given: argparse.Namespace) -> Sequence[Callable[[Report], None]]:
    """The parts of a subject."""
    small = given.small
    settings = SMALL_SETTINGS if small else SETTINGS
    if given.subject in BESIDE_BACKBONE:
        return [beside_backbone(given)]
    flow = partial(time_flow, flows=SMALL_FLOWS if small else FLOWS)
    return {
        "fit": [partial(time_fit, settings=settings)],
        "inference": [flow, partial(time_mixed_batch, settings=settings)],
        "bank": [partial(time_bank, banks=SMALL_BANKS if small else BANKS)],
        "together": [partial(time_together, small=small)],
    }[given.subject]


def beside_backbone(given: argparse.Namespace) -> Callable[[Report], None]:
    """The part of a subject that compares with the backbone alone."""
    chosen = [model for model in measured_models(given.small) if given.only in model.name]
    if given.subject == "learn":
        return partial(time_learning, chosen=chosen, images=given.images, epochs=given.epochs)
    return partial(time_inspecting if given.subject == "inspect" else time_starting, chosen=chosen)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = script_parser(__doc__)
    subjects = subject_parsers(parser, [*OF_LITERAL, *BESIDE_BACKBONE])
    for name, subject in subjects.items():
        add_small_argument(subject)
        if name in BESIDE_BACKBONE:
            which = "models whose name contains it (all)"
            subject.add_argument("--only", metavar="TEXT", default="", help=which)
    learning = subjects["learn"]
    learning.add_argument("--images", type=int, default=IMAGES, help="to learn from (%(default)s)")
    learning.add_argument("--epochs", type=int, default=EPOCHS, help="(%(default)s)")
    return parser.parse_args()


def main() -> int:
    """Time, print."""
    given = parse()
    return benchmark(f"speed {given.subject}", *parts_of(given))


if __name__ == "__main__":
    sys.exit(main())
