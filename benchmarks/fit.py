"""Times learning one more product against the literal method, in one alternating run.

    python -m benchmarks.fit

Our side is whole: `trainer.fit` from a checkpoint that knows one product, 40 epochs on another,
features, statistics and checkpoints included. The literal side would take hours; its backbone pass
and its training step are timed on a few images and multiplied by images and epochs. Random weights
and noise: the time does not depend on them. Prints a table, and one line of JSON last.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn

from benchmarks.literal import FEATURES, LiteralFlow, nll_loss
from benchmarks.memory import Peak
from benchmarks.timing import Report, Row, alternate, benchmark
from moleflow_pl import ContinualDataModule, MoLEFlow, PatchExtractor
from moleflow_pl.callbacks import RunCheckpoint, TaskSchedulerCallback

EPOCHS = 40
# name, timm model, side of the images, images of the product, images the literal side is timed on
BACKBONES = [
    ("ViT-S/14 at 224", "vit_small_patch14_dinov2", 224, 64, 16),
    ("ViT-B/14 at 518", "vit_base_patch14_dinov2", 518, 8, 2),
]


def draw_images(root: Path, side: int, products: dict[str, int]) -> None:
    """Noise in the layout of MVTec AD."""
    generator = np.random.default_rng(0)
    for product, count in products.items():
        for folder, images in (("train/good", count), ("test/good", 1)):
            where = root / product / folder
            where.mkdir(parents=True)
            for i in range(images):
                pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(where / f"{i:04d}.bmp")


def new_trainer(run: Path, epochs: int) -> Trainer:
    """A trainer for a fit without the evaluation, `epochs` for each task."""
    return Trainer(
        default_root_dir=run, accelerator="cpu", devices=1, logger=False, max_epochs=-1,
        gradient_clip_val=0.5, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[TaskSchedulerCallback(epochs), RunCheckpoint()],
    )  # fmt: skip


def learn(
    backbone: str, side: int, root: Path, run: Path, tasks: list[str], epochs: int,
    checkpoint: Path | None = None,
) -> None:  # fmt: skip
    """One `trainer.fit`, without the evaluation."""
    torch.manual_seed(0)
    model = MoLEFlow(backbone, image_size=side, backbone_weights="random", **FEATURES)
    trainer = new_trainer(run, epochs)
    # none held out: the literal side learns from every image
    data = ContinualDataModule(str(root), tasks, num_workers=1, val_fraction=0.0)
    trainer.fit(model, data, ckpt_path=checkpoint)


class Literal:
    """Pieces of the literal loop for a second product.

    Args:
        extractor: The frozen backbone.
        count: Images that a piece is timed on.
    """

    def __init__(self, extractor: PatchExtractor, count: int) -> None:
        self.extractor = extractor
        height, width = extractor.image_size
        self.images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FrEIA says that its rotations take long
            self.flow = LiteralFlow(extractor.dim)
        for task in (0, 1):
            self.flow.add_task(task)
        self.parameters = self.flow.trainable(1)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-4)
        self.features: Tensor = extractor(self.images)

    def backbone_pass(self) -> None:
        """Features of the images, as every epoch computes them."""
        self.extractor(self.images)

    def step(self) -> None:
        """One training step on all their patches."""
        self.optimizer.zero_grad()
        nll_loss(*self.flow(self.features)).backward()
        nn.utils.clip_grad_norm_(self.parameters, 0.5)
        self.optimizer.step()


def one_more_product(report: Report) -> None:
    """40 epochs on a second product."""
    for name, backbone, side, count, few in BACKBONES:
        with tempfile.TemporaryDirectory() as folder:
            root, run = Path(folder) / "data", Path(folder) / "run"
            draw_images(root, side, {"first": 4, "second": count})
            learn(backbone, side, root, run, ["first"], epochs=1)
            extractor = PatchExtractor(backbone, image_size=side, weights="random")
            literal = Literal(extractor, few)
            ours = partial(
                learn, backbone, side, root, Path(folder) / "more", ["first", "second"], EPOCHS,
                run / "last.ckpt",
            )  # fmt: skip
            taken = alternate(
                {"ours": ours, "backbone": literal.backbone_pass, "step": literal.step}, warm=False
            )
        slow = (taken["backbone"] + taken["step"]) / few * count * EPOCHS
        pieces = f"{taken['backbone'] / few:.2f} s and {taken['step'] / few:.3f} s"
        note = (
            f"{count} images: {taken['ours']:.0f} s, literal {slow:.0f} s (backbone and step of "
            f"one image: {pieces})"
        )
        report.add(Row(f"one more product, {name}", slow / taken["ours"], "x", least=10, note=note))


class Drawn(PatchExtractor):
    """Gives features of the right size at once: a thousand images would take the backbone hours."""

    def forward(self, images: Tensor) -> Tensor:
        """Draw features (B, h, w, D)."""
        height, width = (side // 14 for side in self.image_size)
        return torch.randn(len(images), height, width, self.dim)


def peak_memory() -> None:
    """Learn a product of 1,000 images of 1369 x 768 features; print the peak in MB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        draw_images(root, 32, {"first": 1000})
        torch.manual_seed(0)
        backbone: dict[str, Any] = {"backbone": "vit_base_patch14_dinov2", "image_size": 518}
        model = MoLEFlow(**backbone, backbone_weights="random", **FEATURES)
        images = torch.zeros(16, 3, 518, 518, dtype=torch.uint8)
        trainer = new_trainer(Path(folder), epochs=1)
        with Peak() as peak:
            model.extractor(images)  # the backbone's own peak is in it
            model.extractor.__class__ = Drawn
            trainer.fit(model, ContinualDataModule(str(root), ["first"], num_workers=1))
        print(peak.peak_mb)


def memory(report: Report) -> None:
    """The same in a process of its own, whose peak nothing else has raised."""
    code = "from benchmarks.fit import peak_memory; peak_memory()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    peak = float(done.stdout.split()[-1]) * 2**20 / 1e9
    note = "1 epoch of 1,000 images, 1369 x 768; 4.2 GB of features on disk"
    report.add(Row("peak anonymous memory", peak, "GB", most=4, note=note))


if __name__ == "__main__":
    sys.exit(benchmark("fit", memory, one_more_product))
