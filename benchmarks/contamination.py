"""How many defective images among the training ones an expert bears.

    python -m benchmarks.contamination --config configs/demo.yaml --share 0 --share 0.1

Learns the config's products anew for each share, with that share of the images to learn from being
defective ones, which then are not tested with. Prints a table, and one line of JSON last: image
AUROC with the own expert, and how many test images exceed the threshold that was calibrated on
held-out images, of which the same share is defective.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from moleflow_pl import ContinualDataModule, MoLEFlow
from moleflow_pl.callbacks import EvaluationCallback, TaskSchedulerCallback
from moleflow_pl.cli.lightning import TRAINER_DEFAULTS
from moleflow_pl.data.layouts.base import ImageRecord, Layout
from moleflow_pl.data.layouts.registry import LAYOUTS

SHARES = (0.0, 0.01, 0.05, 0.1)
COLUMNS = ("image_auroc", "false_alarms", "found")


class Contaminated:
    """A layout whose images to learn from are defective by a share, evenly spread."""

    def __init__(self, layout: Layout, share: float) -> None:
        self.layout = layout
        self.share = share

    def products(self) -> list[str]:
        """As they are."""
        return self.layout.products()

    def train(self, product: str) -> list[ImageRecord]:
        """Good images with defective ones among them."""
        good, bad = self.layout.train(product), self._moved(product)
        step = len(good) / (len(bad) + 1)
        for i, record in enumerate(bad, start=1):
            good.insert(round(i * step) + i - 1, ImageRecord(record.path, product))
        return good

    def test(self, product: str) -> list[ImageRecord]:
        """Test images but those that are learned from."""
        moved = {record.path for record in self._moved(product)}
        return [record for record in self.layout.test(product) if record.path not in moved]

    def _moved(self, product: str) -> list[ImageRecord]:
        bad = [record for record in self.layout.test(product) if record.gt_label]
        good = len(self.layout.train(product))
        # so many that they are the share of all that is learned from
        count = round(self.share * good / (1 - self.share))
        return [bad[i * len(bad) // count] for i in range(count)]


class ContaminatedData(ContinualDataModule):
    """The data module on such a layout."""

    share = 0.0

    @property
    def layout(self) -> Layout:
        return Contaminated(LAYOUTS[self.layout_name](self.root), self.share)


def learn(config: dict[str, Any], share: float, run: Path) -> MoLEFlow:
    """One fit with a share of defective images to learn from."""
    torch.manual_seed(config["seed_everything"])
    module, data = MoLEFlow(**config["model"]), ContaminatedData(**config["data"])
    data.share = share
    callbacks = [
        TaskSchedulerCallback(**config.get("schedule", {})),
        EvaluationCallback(evaluate_every_task=False),
    ]
    options = {**TRAINER_DEFAULTS, **config["trainer"], "default_root_dir": run}
    Trainer(**options, callbacks=callbacks, logger=False, enable_checkpointing=False).fit(
        module, data
    )
    return module


def results(module: MoLEFlow, run: Path) -> Iterator[dict[str, Any]]:
    """What each product's own expert says of the test images."""
    evaluation = module.schedule.tasks[-1].evaluation
    assert evaluation is not None
    with (run / "report" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for i, task in enumerate(module.schedule.tasks):
        assert task.calibration is not None
        limit = task.calibration.score_threshold.value
        above: dict[str, list[bool]] = {"0": [], "1": []}
        for row in rows:
            if row["task"] == task.name:
                above[row["gt_label"]].append(float(row["oracle_score"]) > limit)
        yield {
            "product": task.name,
            "image_auroc": evaluation["metrics"]["image_auroc"]["oracle"][i],
            "false_alarms": sum(above["0"]) / len(above["0"]),
            "found": sum(above["1"]) / len(above["1"]),
        }


def main() -> None:
    """Learn, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--share", type=float, action="append", help=f"default: {SHARES}")
    given = parser.parse_args()
    config = yaml.safe_load(given.config.read_text())
    table = Table(title="with its own expert: image AUROC, false alarms, defects found")
    for column in ("defective among those learned from", "product", *COLUMNS):
        table.add_column(column)
    lines = []
    for share in given.share or SHARES:
        with tempfile.TemporaryDirectory() as folder:
            module = learn(config, share, Path(folder))
            lines += [{"share": share, **row} for row in results(module, Path(folder))]
    for line in lines:
        numbers = [f"{line[column]:.3f}" for column in COLUMNS]
        table.add_row(f"{line['share']:.0%}", line["product"], *numbers)
    Console().print(table)
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
