"""Time beside that of the backbone alone, which no other method saves either.

For `inspect`, `learn` and `start` of `benchmarks.speed`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.fits import TINY, draw_noise, learn, random_images, read_preset
from benchmarks.harness.many_products import bank_widths, write_products
from benchmarks.harness.measure import alternate
from benchmarks.harness.report import Report, Row
from moleflow_pl import MoLEFlow, PatchExtractor, Predictor
from moleflow_pl.inference.predictor import PreparedImage
from moleflow_pl.scoring.memory_bank import bank_size

PRODUCTS = 3  # that the router compares
IMAGES, BASE_IMAGES, EPOCHS = 250, 8, 10
LEARNING_BATCH = 8
MOST_SHARE, MOST_LEARNING, MOST_START = 15, 1.5, 3
STARTS = 5
# a program of its own: imports, model, decision
START = """
import sys, time
began = time.perf_counter()
import numpy as np
from moleflow_pl import Predictor
Predictor.load(sys.argv[1], device="cpu")(np.zeros((300, 300, 3), np.uint8))
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Setting:
    """A model whose time is compared with that of its backbone.

    Attributes:
        name: Its name in the table.
        arguments: Of the model.
        batches: Numbers of images inspected at once.
    """

    name: str
    arguments: dict[str, Any]
    batches: Sequence[int]


def measured_models(small: bool) -> list[Setting]:
    """The models: those of the presets for MVTec AD at three sizes, and that of the demo."""
    if small:
        return [Setting("tiny ViT", {**TINY, "layers": [[0], [1]], "score": "groups"}, [2])]
    random = {"backbone_weights": "random"}
    mvtec, demo = ({**read_preset(name)["model"], **random} for name in ("mvtec", "demo"))
    vit_s = {**mvtec, "backbone": "vit_small_patch14_dinov2"}
    return [
        Setting("Lite0 at 256", demo, [1, 16]),
        Setting("ViT-S/14 at 224", {**vit_s, "image_size": 224}, [1, 16]),
        Setting("ViT-S/14 at 392", {**vit_s, "image_size": 392}, [1, 8]),
        Setting("ViT-B/14 at 518", {**mvtec, "image_size": 518}, [1, 4]),
    ]


@contextmanager
def model_of(setting: Setting) -> Iterator[Path]:
    """A model that knows a few products by random tensors, with banks as of so many images."""
    inspector = MoLEFlow(**setting.arguments).inspector
    widths = [width for bank in bank_widths(inspector).values() for width in bank]
    vectors = bank_size(IMAGES * inspector.extractor.patches, widths, inspector.bank_mb)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        write_products(path, PRODUCTS, setting.arguments, vectors)
        yield path


def decide(predictor: Predictor, batch: Sequence[PreparedImage]) -> None:
    """Decide about images, and draw up the maps of their pixels."""
    for prediction in predictor.inspect(batch):
        _ = prediction.anomaly_map


def time_inspecting(report: Report, chosen: Sequence[Setting]) -> None:
    """The share of everything beyond the backbone in the backbone's time."""
    for setting in chosen:
        with model_of(setting) as path:
            predictor = Predictor.load(path, device="cpu")
            extractor = predictor.inspector.extractor
            height, width = extractor.image_size
            for count in setting.batches:
                images = random_images(extractor, count)
                batch = [PreparedImage(image, (height, width)) for image in images]
                sides: dict[str, Callable[[], Any]] = {
                    "whole": partial(decide, predictor, batch),
                    "backbone": partial(extractor, images),
                }
                with torch.inference_mode():
                    seconds = alternate(sides)
                report.add(share_row(f"{setting.name}, images at once: {count}", count, **seconds))


def share_row(what: str, count: int, whole: float, backbone: float) -> Row:
    """The row of a batch, from the seconds of the whole and of the backbone."""
    note = f"{1000 * whole / count:.1f} ms an image, backbone {1000 * backbone / count:.1f} ms"
    share = 100 * (whole - backbone) / backbone
    return Row(f"beyond the backbone, {what}", share, "%", most=MOST_SHARE, note=note)


def time_learning(report: Report, chosen: Sequence[Setting], images: int, epochs: int) -> None:
    """One more product against one pass of the backbone over its images."""
    for setting in chosen:
        with tempfile.TemporaryDirectory() as folder:
            root, run = Path(folder) / "data", Path(folder) / "run"
            model = MoLEFlow(**setting.arguments)
            extractor = model.inspector.extractor
            draw_noise(root, extractor.image_size[0], {"first": BASE_IMAGES, "second": images})
            learn(model, root, run, ["first"], 1, num_workers=1)
            again, more = MoLEFlow(**setting.arguments), Path(folder) / "more"
            started = time.perf_counter()
            both = ["first", "second"]
            learn(again, root, more, both, epochs, run / "last.ckpt", num_workers=1)
            whole = time.perf_counter() - started
            each = backbone_seconds(extractor, images)
        note = f"{images} images, {epochs} epochs: {whole:.0f} s, the pass {each * images:.0f} s"
        what = f"one more product against its backbone pass, {setting.name}"
        report.add(Row(what, whole / (each * images), "x", most=MOST_LEARNING, note=note))


def backbone_seconds(extractor: PatchExtractor, images: int) -> float:
    """Seconds of the backbone for an image, as a median over some batches."""
    pixels = random_images(extractor, min(LEARNING_BATCH, images))
    with torch.inference_mode():
        seconds = alternate({"backbone": partial(extractor, pixels)})
    return seconds["backbone"] / len(pixels)


def time_starting(report: Report, chosen: Sequence[Setting]) -> None:
    """A new process, from its first import to its first decision."""
    for setting in chosen:
        with model_of(setting) as path:
            command = [sys.executable, "-c", START, str(path)]
            seconds = [float(subprocess.check_output(command)) for _ in range(STARTS)]
        note = f"median of {STARTS}, {min(seconds):.2f} to {max(seconds):.2f}"
        what = f"import to first decision, {setting.name}"
        report.add(Row(what, statistics.median(seconds), "s", most=MOST_START, note=note))
