"""`<run>/predictions/predictions.csv`, row by row."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from moleflow_pl.files import writing
from moleflow_pl.module import Inspection, MoLEFlow
from moleflow_pl.ranks import gather, interleave

COLUMNS = ("path", "product", "router_distance", "router_margin", "score", "threshold", "label")


class PredictionWriter(BasePredictionWriter):
    """Writes a row for every image as soon as it is scored.

    `product` is the task the router picked, `router_distance` its distance and `router_margin` how
    much farther the second is. `threshold` and `label` stay empty: no threshold is calibrated. On
    several devices the first writes the rows of all, at the end.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._file: TextIO | None = None
        self._kept: dict[int, list[list[Any]]] = {}  # by loader, where others have rows too

    def on_predict_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Begin a new file."""
        self._kept = {}
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "predictions" / "predictions.csv"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        self._write([COLUMNS])

    def write_on_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, prediction: Inspection,
        batch_indices: Sequence[int] | None, batch: Mapping[str, Any], batch_idx: int,
        dataloader_idx: int,
    ) -> None:  # fmt: skip
        """Append the rows of a batch."""
        names = pl_module.schedule.names
        nearest = prediction.distances.sort(1).values
        rows = []
        for i, path in enumerate(batch["path"]):
            distance = nearest[i, 0].item()
            margin = nearest[i, 1].item() - distance if nearest.shape[1] > 1 else None
            name = names[int(prediction.task[i])]
            rows.append([path, name, distance, margin, prediction.score[i].item(), None, None])
        if trainer.world_size > 1:
            self._kept.setdefault(dataloader_idx, []).extend(rows)
        else:
            self._write(rows)

    def on_predict_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Close the file and say where it is."""
        parts = gather(self._kept)
        if self._file is None:
            return
        for loader in sorted(set().union(*parts)):
            self._write(interleave([part.get(loader, []) for part in parts]))
        with writing(self._file.name):
            self._file.close()
        print(f"predictions: {self._file.name}")

    def _write(self, rows: Sequence[Sequence[Any]]) -> None:
        assert self._file is not None
        with writing(self._file.name):
            csv.writer(self._file).writerows(rows)
