"""`<run>/predictions`: a row, a heatmap and what else was asked for of every image, as it comes."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from moleflow_pl._internal.distributed import gather, wait_for_all
from moleflow_pl._internal.files import writing
from moleflow_pl.callbacks.prediction_state import (
    finished_rows,
    make_room,
    model_hash,
    rows_of,
    write_state,
)
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.data.batches import PredictBatch
from moleflow_pl.data.datamodule import data_of
from moleflow_pl.data.predict_dataset import NO_IMAGE_NAME
from moleflow_pl.inference.decisions import DecisionMaker, Prediction
from moleflow_pl.inference.localisation import MapFormat, save_map
from moleflow_pl.model.inspector import Inspection
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.summary import write_rows
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)

COLUMNS = (
    "path", "product", "router_distance", "router_margin", "score", "threshold", "label",
    "normalised_score", "novelty_ratio",
)  # fmt: skip
BOX_COLUMNS = ("path", "left", "top", "width", "height", "peak", "pixel_threshold")
SKIPPED_COLUMNS = ("path", "reason")
NAMED = 3  # skipped files that are named


class PredictionWriter(BasePredictionWriter):
    """Writes the prediction of every image as soon as it is scored.

    A `predict` that was stopped goes on where it was; one by another model or with other options
    moves the old folder aside, to `predictions~1`. On several devices the first writes the rows of
    all at the end, and one that was stopped starts again.

    Args:
        heatmaps: Write each image under its score map, `heatmaps/<image>.jpg`. The colour scale is
            the product's: its middle is the pixel threshold.
        maps: Write raw maps of the images' own sizes, `maps/<image>.npy` or 32-bit `.tiff`.
        boxes: Write boxes around what exceeds the pixel threshold, `boxes.csv`.
        product: The product that all images show; by default the router decides.
    """

    def __init__(
        self,
        heatmaps: bool = True,
        maps: MapFormat | None = None,
        boxes: bool = False,
        product: str | None = None,
    ) -> None:
        super().__init__(write_interval="batch")
        self.heatmaps = heatmaps
        self.maps = maps
        self.boxes = boxes
        self.product = product
        self._tables: dict[str, TextIO] = {}  # the first rank's
        self._buffer: dict[str, list[Sequence[Any]]] = {}  # rows, where other ranks have some too
        self._skipped: list[str] = []

    def setup(self, trainer: Trainer, pl_module: MoLEFlow, stage: str) -> None:  # type: ignore[override]
        """Tell the data module which images are done, before it makes its loader."""
        if stage != "predict":
            return
        data = data_of(trainer)
        self._folder = RunFolder(Path(trainer.default_root_dir)).predictions
        self._request = {
            "model": model_hash(trainer.ckpt_path, pl_module),
            "images": data.predict_path,
            "heatmaps": self.heatmaps, "maps": self.maps, "boxes": self.boxes,
            "product": self.product,
        }  # fmt: skip
        self._done = finished_rows(self._folder, self._request)
        data.predicted = {row[0] for row in self._done}

    def on_predict_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Open the tables, new or where they ended."""
        self._decisions = DecisionMaker(pl_module.schedule, self.product)
        pl_module.predicted_task = self._decisions.task
        dataset = trainer.predict_dataloaders.dataset  # type: ignore[union-attr]
        self._root = dataset.root
        self._places = {path: i for i, path in enumerate(dataset.paths)}
        self._shared = trainer.world_size > 1
        if trainer.is_global_zero:
            warn_of_missing_calibrations(self._decisions, pl_module.schedule, self.heatmaps)
            self._begin()
            self._skip([(path, NO_IMAGE_NAME) for path in dataset.others])
        wait_for_all()  # the folder may have been moved aside

    def _begin(self) -> None:
        make_room(self._folder, self._request)
        write_state(self._folder, self._request, complete=False)
        done = {row[0] for row in self._done}
        boxes = [row for row in rows_of(self._folder / "boxes.csv") if row[0] in done]
        # files that are no images are looked at again
        self._open("predictions", COLUMNS, self._done)
        self._open("skipped", SKIPPED_COLUMNS, [])
        if self.boxes:
            self._open("boxes", BOX_COLUMNS, boxes)
        if done:
            logger.info(f"going on after {len(done)} images")

    def write_on_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, prediction: Inspection | None,
        batch_indices: Sequence[int] | None, batch: PredictBatch, batch_idx: int,
        dataloader_idx: int,
    ) -> None:  # fmt: skip
        """Append a batch; a row is written when all else of its image is there."""
        self._skip(batch["skipped"])
        if prediction is None:
            return
        decided = list(
            zip(batch["path"], self._decisions.decide(prediction, batch["size"]), strict=True)
        )
        for path, result in decided:
            self._write_pictures(path, result)
            if self.boxes:
                boxes = [[path, *vars(b).values(), result.pixel_threshold] for b in result.boxes]
                self._add("boxes", boxes)
        self._add("predictions", [[path, *row_of(result)] for path, result in decided])

    def on_predict_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Close the tables; say where they are and what was skipped."""
        pl_module.predicted_task = None
        parts = gather((self._buffer, self._skipped))
        if not trainer.is_global_zero:
            return
        self._skipped = [name for _, names in parts for name in names]
        for name, table in self._tables.items():
            rows = [row for buffer, _ in parts for row in buffer.get(name, [])]
            # files that are no images by their name come first
            self._write(name, sorted(rows, key=lambda row: self._places.get(row[0], -1)))
            with writing(table.name):
                table.close()
        write_state(self._folder, self._request, complete=True)
        logger.info(f"predictions: {self._tables['predictions'].name}")
        if self._skipped:
            names = ", ".join(self._skipped[:NAMED]) + ", …" * (len(self._skipped) > NAMED)
            logger.info(
                f"skipped {len(self._skipped)} files that are no images: {names} "
                f"(reasons: {self._tables['skipped'].name})"
            )

    def _write_pictures(self, path: str, result: Prediction) -> None:
        name = os.path.relpath(path, self._root)
        if self.maps is not None:
            save_map(result.anomaly_map, self._folder / "maps" / name, self.maps)
        if self.heatmaps and result.median_patch_score is not None:
            # the drawing library is slow to import
            from moleflow_pl.report.heatmap import save_heatmap

            save_heatmap(Path(path), result, self._folder / "heatmaps" / f"{name}.jpg", self.boxes)

    def _skip(self, files: Sequence[tuple[str, str]]) -> None:
        self._skipped += [os.path.basename(path) for path, _ in files]
        self._add("skipped", files)

    def _open(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        path = self._folder / f"{name}.csv"
        write_rows(path, columns, rows)
        with writing(path):
            self._tables[name] = path.open(
                "a", newline="", encoding="utf-8", errors="backslashreplace"
            )

    def _add(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        if self._shared:
            self._buffer.setdefault(name, []).extend(rows)
        else:
            self._write(name, rows)

    def _write(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        table = self._tables[name]
        with writing(table.name):
            csv.writer(table).writerows(rows)
            table.flush()  # rows survive a stop


def row_of(result: Prediction) -> list[Any]:
    """The fields of a row after its path."""
    return [getattr(result, column) for column in COLUMNS[1:]]


def warn_of_missing_calibrations(
    decisions: DecisionMaker, schedule: TaskSchedule, heatmaps: bool
) -> None:
    """Name the products that get no decision, and those for which no image is unknown."""
    uncalibrated = [schedule.tasks[i].name for i in schedule.learned if i not in decisions.limits]
    if uncalibrated:
        what = "no label and no heatmap" if heatmaps else "no label"
        logger.warning(
            f"{what} for {uncalibrated}: there were no calibration images for their thresholds "
            "(fit with data.val_fraction above 0)"
        )
    calibrated = [schedule.tasks[i] for i in decisions.limits]
    unlimited = [task.name for task in calibrated if math.isinf(task.novelty_limit)]
    if unlimited:
        logger.warning(
            f"no image is called unknown: novelty has no limit for {unlimited}; "
            "`moleflow experts update` finds one"
        )
