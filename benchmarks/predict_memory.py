"""`moleflow predict` over 10,000 image files with heatmaps: the time of each, and the memory.

    python -m benchmarks.predict_memory

Learns a small model of drawn images first, in a folder that is removed. Memory does not depend on
what the model is: its backbone and experts are there from the start. Prints a table, and one line
of JSON last; exits with 1 where the memory grows.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, Trainer
from PIL import Image

from benchmarks.fit import new_trainer
from benchmarks.memory import anonymous_mb
from benchmarks.timing import Report, Row
from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import PredictionWriter
from moleflow_pl.cli.lightning import TRAINER_DEFAULTS

IMAGES = 10_000
LEARNED = 40
SIDE = 64
MODEL = {
    "backbone": "test_vit", "layers": [0, 1], "image_size": SIDE, "backbone_weights": "random",
    "coupling_layers": 2, "lora_rank": 4,
}  # fmt: skip
WARM = 0.1  # share of the images after which nothing new is loaded any more
MOST_MB = 20.0  # that the rest of the images may add: a heatmap kept is 12 kB, 9,000 are 108 MB


class MemoryLog(Callback):
    """Notes the memory after every batch of `predict`."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_predict_batch_end(self, *args: object) -> None:
        """Note it."""
        self.seen.append(anonymous_mb())

    @property
    def grown_mb(self) -> float:
        """How much the middle of the last tenth of the batches is above that after the first."""
        tenth = max(int(WARM * len(self.seen)), 1)
        first, last = self.seen[tenth : 2 * tenth], self.seen[-tenth:]
        return float(np.median(last) - np.median(first))


def draw(folder: Path, count: int) -> None:
    """Write `count` grey images of noise; those beyond the first few are copies."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if number < LEARNED:
            noise = generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        else:
            shutil.copy(folder / f"{number % LEARNED:05d}.png", path)


def learn(where: Path) -> None:
    """Learn the images of one product."""
    draw(where / "data" / "product" / "train" / "good", LEARNED)
    data = ContinualDataModule(str(where / "data"), ["product"], num_workers=0)
    new_trainer(where / "run", epochs=1).fit(MoLEFlow(**MODEL), data)  # type: ignore[arg-type]


def predict(report: Report, where: Path, count: int) -> None:
    """Predict, and look at what came of it."""
    draw(where / "new", count)
    model = MoLEFlow.load_from_checkpoint(where / "run" / "last.ckpt")
    data = ContinualDataModule(None, ["product"], num_workers=0, predict_path=str(where / "new"))
    log = MemoryLog()
    started = time.perf_counter()
    trainer = Trainer(
        **{**TRAINER_DEFAULTS, "default_root_dir": where / "run"}, accelerator="cpu", logger=False,
        callbacks=[PredictionWriter(), log], enable_progress_bar=False,
    )  # fmt: skip
    trainer.predict(model, data, return_predictions=False)
    each = 1000 * (time.perf_counter() - started) / count
    folder = where / "run" / "predictions"
    with (folder / "predictions.csv").open() as file:
        rows = sum(1 for _ in csv.DictReader(file))
    pictures = sum(1 for _ in (folder / "heatmaps").glob("*.jpg"))
    note = f"{each:.1f} ms an image; {log.seen[0]:.0f} MB after the first batch"
    report.add(Row("memory grown", log.grown_mb, "MB", most=MOST_MB, note=note))
    report.add(Row("rows", float(rows), "", least=count, most=count))
    report.add(Row("heatmaps", float(pictures), "", least=count, most=count))


def main() -> int:
    """Learn, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="(%(default)s)")
    given = parser.parse_args()
    report = Report("predict_memory")
    with tempfile.TemporaryDirectory() as folder:
        learn(Path(folder))
        predict(report, Path(folder), given.images)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
