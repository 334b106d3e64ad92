"""Models for benchmarks: presets, trainers, finished runs, and images of noise to learn from.

For all scripts that learn or load models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from moleflow_pl import ContinualDataModule, MoLEFlow, PatchExtractor
from moleflow_pl.callbacks import RunCheckpoint, TaskSchedulerCallback
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import CONFIG_KEY

PRESETS = Path(__file__).parents[2] / "configs"
# a model whose figures mean nothing
TINY: dict[str, Any] = {
    "backbone": "test_vit", "image_size": 64, "backbone_weights": "random", "layers": [0, 1],
    "coupling_layers": 2, "lora_rank": 4,
}  # fmt: skip


def read_preset(name: str | Path) -> dict[str, Any]:
    """A configuration: the file at a path, or else the preset of that name.

    Example:
        >>> read_preset("demo")["data"]["layout"]
        'elpv'
    """
    path = Path(name) if Path(name).is_file() else PRESETS / f"{name}.yaml"
    return yaml.safe_load(path.read_text())


def new_trainer(
    run: Path, epochs: int, callbacks: Sequence[Callback] = (), **options: Any
) -> Trainer:
    """A Trainer that learns every task for `epochs` on the CPU without evaluation.

    Args:
        run: The run folder.
        epochs: Epochs of each task.
        callbacks: More callbacks.
        options: Arguments of the Trainer that replace these.
    """
    chosen: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "logger": False, "max_epochs": -1,
        "gradient_clip_val": 0.5, "enable_progress_bar": False, "enable_model_summary": False,
        **options,
    }  # fmt: skip
    own = [TaskSchedulerCallback(epochs), *callbacks, RunCheckpoint()]
    return Trainer(default_root_dir=run, callbacks=own, **chosen)


def learn(
    model: MoLEFlow, root: Path, run: Path, tasks: Sequence[str], epochs: int,
    checkpoint: Path | None = None, **options: Any,
) -> None:  # fmt: skip
    """One `trainer.fit` without evaluation, which goes on from a checkpoint if there is one.

    Args:
        model: The model, with its weights of the beginning.
        root: Data set.
        run: The run folder.
        tasks: Tasks of the whole run, also those that the checkpoint knows.
        epochs: Epochs of each task.
        checkpoint: Of the tasks that are learned already.
        options: More arguments of the data module.
    """
    data = ContinualDataModule(str(root), list(tasks), **options)
    new_trainer(run, epochs).fit(model, data, ckpt_path=checkpoint)


def load_run(checkpoint: Path) -> tuple[MoLEFlow, dict[str, Any]]:
    """The model of a finished run, on the CPU, and the arguments of its data module."""
    config = yaml.safe_load(read_checkpoint(checkpoint)[CONFIG_KEY])["data"]
    return load_model(checkpoint), config


def load_model(checkpoint: Path) -> MoLEFlow:
    """The model of a checkpoint, on the CPU, ready to score."""
    return MoLEFlow.load_from_checkpoint(checkpoint, map_location="cpu").eval()


def draw_noise(root: Path, side: int, products: Mapping[str, int]) -> None:
    """Write images of noise in the layout of MVTec AD: training images, and one test image."""
    generator = np.random.default_rng(0)
    for product, count in products.items():
        for folder, images in (("train/good", count), ("test/good", 1)):
            where = root / product / folder
            where.mkdir(parents=True)
            for i in range(images):
                pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(where / f"{i:04d}.bmp")


def random_images(extractor: PatchExtractor, count: int) -> Tensor:
    """Images of noise (N, 3, H, W), uint8, at the size of a backbone."""
    return torch.randint(0, 256, (count, 3, *extractor.image_size), dtype=torch.uint8)
