"""`<run>/predictions`: a row, a heatmap and what else was asked for of every image, as it comes."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from moleflow_pl._internal.distributed import gather, wait_for_all
from moleflow_pl._internal.files import write_text, writing
from moleflow_pl.checkpoints.io import plain
from moleflow_pl.checkpoints.run_folder import RunFolder, move_aside
from moleflow_pl.data.predict_dataset import NO_IMAGE_NAME
from moleflow_pl.features.backbone import weights_hash
from moleflow_pl.inference.decisions import DecisionMaker, Prediction
from moleflow_pl.inference.localisation import MapFormat, save_map
from moleflow_pl.model.inspector import Inspection
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.summary import write_rows
from moleflow_pl.tasks.schedule import TaskSchedule

COLUMNS = (
    "path", "product", "router_distance", "router_margin", "score", "threshold", "label",
    "normalised_score", "novelty_ratio",
)  # fmt: skip
BOX_COLUMNS = ("path", "left", "top", "width", "height", "peak", "pixel_threshold")
SKIPPED_COLUMNS = ("path", "reason")
MARK = "run.json"
NAMED = 3  # skipped files that are named


class PredictionWriter(BasePredictionWriter):
    """Writes what is found in every image as soon as it is scored.

    A `predict` that was stopped goes on where it was; one by another model or with other options
    moves the old folder aside, to `predictions~1`. On several devices the first writes the rows of
    all at the end, and one that was stopped begins anew.

    Args:
        heatmaps: Write each image under its score map, `heatmaps/<image>.jpg`. The scale is that of
            the product: its middle is the pixel threshold.
        maps: Write raw maps of the images' own sizes, `maps/<image>.npy` or 32-bit `.tiff`.
        boxes: Write boxes around what exceeds the pixel threshold, `boxes.csv`.
        product: The product that all images show; by default the router tells.
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
        self._kept: dict[str, list[Sequence[Any]]] = {}  # rows, where others have some too
        self._skipped: list[str] = []

    def setup(self, trainer: Trainer, pl_module: MoLEFlow, stage: str) -> None:  # type: ignore[override]
        """Tell the data module what is done already, before it makes its loader."""
        if stage != "predict":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._folder = RunFolder(Path(trainer.default_root_dir)).predictions
        self._mark = {
            "model": model_hash(trainer.ckpt_path, pl_module),
            "images": data.predict_path,
            "heatmaps": self.heatmaps, "maps": self.maps, "boxes": self.boxes,
            "product": self.product,
        }  # fmt: skip
        self._done = finished_rows(self._folder, self._mark)
        data.predicted = {row[0] for row in self._done}

    def on_predict_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Open the tables, new or where they ended."""
        self._judge = DecisionMaker(pl_module.schedule, self.product)
        pl_module.forced_task = self._judge.task
        dataset = trainer.predict_dataloaders.dataset  # type: ignore[union-attr]
        self._root = dataset.root
        self._places = {path: i for i, path in enumerate(dataset.paths)}
        self._shared = trainer.world_size > 1
        if trainer.is_global_zero:
            say_what_is_missing(self._judge, pl_module.schedule, self.heatmaps)
            self._begin()
            self._skip([(path, NO_IMAGE_NAME) for path in dataset.others])
        wait_for_all()  # the folder may have been moved aside

    def _begin(self) -> None:
        make_room(self._folder, self._mark)
        write_text(self._folder / MARK, json.dumps({**self._mark, "complete": False}))
        done = {row[0] for row in self._done}
        boxes = [row for row in rows_of(self._folder / "boxes.csv") if row[0] in done]
        # files that are no images are looked at again
        self._open("predictions", COLUMNS, self._done)
        self._open("skipped", SKIPPED_COLUMNS, [])
        if self.boxes:
            self._open("boxes", BOX_COLUMNS, boxes)
        if done:
            print(f"going on after {len(done)} images")

    def write_on_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, prediction: Inspection | None,
        batch_indices: Sequence[int] | None, batch: Mapping[str, Any], batch_idx: int,
        dataloader_idx: int,
    ) -> None:  # fmt: skip
        """Append a batch; a row is written when all else of its image is there."""
        self._skip(batch["skipped"])
        if prediction is None:
            return
        judged = self._judge.judge(prediction, batch["size"])
        for path, found in zip(batch["path"], judged, strict=True):
            self._write_pictures(path, found)
            if self.boxes:
                self._add(
                    "boxes",
                    [[path, *vars(box).values(), found.pixel_threshold] for box in found.boxes],
                )
        rows = zip(batch["path"], judged, strict=True)
        self._add("predictions", [[path, *row_of(found)] for path, found in rows])

    def on_predict_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Close the tables; say where they are and what was passed over."""
        pl_module.forced_task = None
        parts = gather((self._kept, self._skipped))
        if not trainer.is_global_zero:
            return
        self._skipped = [name for _, names in parts for name in names]
        for name, table in self._tables.items():
            rows = [row for kept, _ in parts for row in kept.get(name, [])]
            # files that are no images by their name come first
            self._write(name, sorted(rows, key=lambda row: self._places.get(row[0], -1)))
            with writing(table.name):
                table.close()
        write_text(self._folder / MARK, json.dumps({**self._mark, "complete": True}))
        print(f"predictions: {self._tables['predictions'].name}")
        if self._skipped:
            names = ", ".join(self._skipped[:NAMED]) + ", …" * (len(self._skipped) > NAMED)
            print(
                f"skipped {len(self._skipped)} files that are no images: {names} "
                f"(reasons: {self._tables['skipped'].name})"
            )

    def _write_pictures(self, path: str, found: Prediction) -> None:
        name = os.path.relpath(path, self._root)
        if self.maps is not None:
            save_map(found.anomaly_map, self._folder / "maps" / name, self.maps)
        if self.heatmaps and found.median_patch_score is not None:
            # the drawing library is slow to import
            from moleflow_pl.report.heatmap import save_heatmap

            save_heatmap(Path(path), found, self._folder / "heatmaps" / f"{name}.jpg", self.boxes)

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
            self._kept.setdefault(name, []).extend(rows)
        else:
            self._write(name, rows)

    def _write(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        table = self._tables[name]
        with writing(table.name):
            csv.writer(table).writerows(rows)
            table.flush()  # what is written survives a stop


def row_of(found: Prediction) -> list[Any]:
    """The fields of a row behind its path."""
    return [getattr(found, column) for column in COLUMNS[1:]]


def model_hash(path: str | Path | None, module: MoLEFlow) -> str:
    """What tells a model with its thresholds from another: hash of its file, or of itself."""
    if path is not None:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    tasks = json.dumps(plain(module.schedule.state()))
    return hashlib.sha256(f"{weights_hash(module)}{tasks}".encode()).hexdigest()


def finished_rows(folder: Path, mark: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the same `predict` that was stopped; none of another, or of one that ended.

    The last row is left out: it may be torn, and there is always something left to do.
    """
    path = folder / MARK
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != {
        **mark, "complete": False,
    }:  # fmt: skip
        return []
    return rows_of(folder / "predictions.csv")[:-1]


def rows_of(path: Path) -> list[list[str]]:
    """Rows of a table behind its header; none where there is no table."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def make_room(folder: Path, mark: Mapping[str, Any]) -> None:
    """Move predictions aside that another model, other images or other options made."""
    path = folder / MARK
    if not path.is_file():
        return
    old = json.loads(path.read_text(encoding="utf-8"))
    old.pop("complete", None)
    if old != mark:
        aside = move_aside(folder)
        print(
            f"the predictions that were in {folder} are of another model, other images or "
            f"options, and now in {aside}"
        )


def say_what_is_missing(judge: DecisionMaker, schedule: TaskSchedule, heatmaps: bool) -> None:
    """Name the products that no decision can be made about."""
    bare = [schedule.tasks[i].name for i in schedule.learned if i not in judge.limits]
    if bare:
        what = "no label and no heatmap" if heatmaps else "no label"
        print(
            f"{what} for {bare}: nothing was held out for their thresholds "
            "(fit with data.val_fraction above 0)"
        )
    judged = [schedule.tasks[i] for i in judge.limits]
    endless = [task.name for task in judged if math.isinf(task.novelty_limit)]
    if endless:
        print(
            f"no image is called unknown: no damage was tried on the held-out images of {endless}, "
            "`moleflow experts update` does so"
        )
