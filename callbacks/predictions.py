"""`<run>/predictions/predictions.csv`, row by row."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from moleflow_pl.module import Inspection, MoLEFlow

COLUMNS = ("path", "product", "router_distance", "router_margin", "score", "threshold", "label")


class PredictionWriter(BasePredictionWriter):
    """Writes a row for every image as soon as it is scored.

    `product` is the task the router picked, `router_distance` its distance and `router_margin` how
    much farther the second is. `threshold` and `label` stay empty: no threshold is calibrated.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._file: TextIO | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Begin a new file."""
        path = Path(trainer.default_root_dir) / "predictions" / "predictions.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8")
        csv.writer(self._file).writerow(COLUMNS)

    def write_on_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, prediction: Inspection,
        batch_indices: Sequence[int] | None, batch: Mapping[str, Any], batch_idx: int,
        dataloader_idx: int,
    ) -> None:  # fmt: skip
        """Append the rows of a batch."""
        assert self._file is not None
        names = pl_module.schedule.names
        nearest = prediction.distances.sort(1).values
        writer = csv.writer(self._file)
        for i, path in enumerate(batch["path"]):
            distance = nearest[i, 0].item()
            margin = nearest[i, 1].item() - distance if nearest.shape[1] > 1 else None
            name = names[int(prediction.task[i])]
            writer.writerow([path, name, distance, margin, prediction.score[i].item(), None, None])

    def on_predict_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Close the file and say where it is."""
        assert self._file is not None
        self._file.close()
        print(f"predictions: {self._file.name}")
