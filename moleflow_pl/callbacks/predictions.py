"""Writes `<run>/predictions` image by image: a row, a heatmap and other outputs."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image

from moleflow_pl._internal.console import log_table
from moleflow_pl._internal.distributed import gather, wait_for_all
from moleflow_pl._internal.files import writing
from moleflow_pl._internal.names import output_file, stems
from moleflow_pl._internal.printable import printable, write_cells
from moleflow_pl._internal.result_names import (
    BOXES_FILE,
    HEATMAPS,
    IMAGES_FILE,
    MAPS,
    MASKS,
    SKIPPED_FILE,
    TABLE_FILE,
)
from moleflow_pl.callbacks.last_messages import decisions_table, places
from moleflow_pl.callbacks.prediction_pictures import remove_pictures, write_names
from moleflow_pl.callbacks.prediction_state import (
    by_path,
    make_room,
    model_hash,
    read_earlier,
    seal_of,
    write_state,
)
from moleflow_pl.callbacks.progress import is_trial, takes_every_batch
from moleflow_pl.checkpoints.io import plain
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.data.batches import Identity, PredictBatch
from moleflow_pl.data.predict_dataset import FoundFiles, path_key, skip_reason
from moleflow_pl.data.trainer_data import data_of
from moleflow_pl.inference.decisions import DecisionMaker, Prediction
from moleflow_pl.inference.localisation import MapFormat, PictureFormat, save_map, save_mask
from moleflow_pl.model.inspector import Inspection
from moleflow_pl.model.restore import arguments_of
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
PRODUCT, LABEL = COLUMNS.index("product"), COLUMNS.index("label")
IMAGE_COLUMNS = (*Identity._fields, "seal")
PREVIEW_SIDE = 512  # largest side of a heatmap, in pixels
NAMED = 3  # skipped files to name


class PredictionWriter(BasePredictionWriter):
    """Writes the prediction of every image as soon as it is scored.

    A stopped `predict` resumes, for images with equal path, size, time and content. With another
    model, other images or other options, or after finished predictions, the old folder is moved
    aside to `predictions~1`. With several devices, the first one writes all rows at the end, and a
    stopped `predict` starts again.

    Args:
        heatmaps: Write each image with its score map over it, `heatmaps/<image>.jpg` or `.png`;
            `false` for none. The middle of the product's colour scale is the pixel threshold.
        maps: Write raw maps at the images' own sizes, `maps/<image>.npy` or 32-bit `.tiff`.
        masks: Write masks of the defects, `masks/<image>.png`: 255 for a defect, otherwise 0.
        boxes: Write boxes of the defects, `boxes.csv`, and draw them with their contours.
        product: The product that all images show, `--product` for short; by default the router
            decides.
        folder: The output folder; by default `predictions` in the run folder.
    """

    def __init__(
        self,
        heatmaps: PictureFormat | Literal[False] = "jpg",
        maps: MapFormat | None = None,
        masks: bool = False,
        boxes: bool = False,
        product: str | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__(write_interval="batch")
        self.heatmaps = heatmaps
        self.maps = maps
        self.masks = masks
        self.boxes = boxes
        self.product = product
        self.folder = folder
        self._tables: dict[str, TextIO] = {}  # open on the first rank alone
        self._buffer: dict[str, list[Sequence[Any]]] = {}  # rows, if there are several ranks
        self._skipped: list[str] = []
        self._counts: Counter[tuple[str, str]] = Counter()  # images by product and label

    def setup(self, trainer: Trainer, pl_module: MoLEFlow, stage: str) -> None:  # type: ignore[override]
        """Pass finished images to the data module, before it builds its loader."""
        if stage != "predict":
            return
        data = data_of(trainer)
        run = RunFolder(Path(trainer.default_root_dir))
        self._folder = Path(self.folder).expanduser() if self.folder else run.predictions
        self._request = {
            "model": model_hash(trainer.ckpt_path, pl_module),
            "images": data.predict_source,
            "arguments": plain(
                {**asdict(arguments_of(pl_module.inspector)), "precision": trainer.precision}
            ),
            "heatmaps": self.heatmaps, "maps": self.maps, "masks": self.masks,
            "boxes": self.boxes,
            "product": self.product,
        }  # fmt: skip
        self._earlier = read_earlier(self._folder, self._request)
        data.predicted = self._earlier.images
        data.preview_side = PREVIEW_SIDE if self.heatmaps else None

    def on_predict_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Open the tables, new or to resume."""
        self._decisions = DecisionMaker(pl_module.schedule, self.product)
        pl_module.predicted_task = self._decisions.task
        dataset = trainer.predict_dataloaders.dataset  # type: ignore[union-attr]
        self._places = {path_key(path): i for i, path in enumerate(dataset.paths)}
        resumable = dataset.unchanged - self._places.keys()
        self._resumed = [key for key in self._earlier.rows if key in resumable]
        self._names = self._choose_names(dataset.files)
        self._shared = trainer.world_size > 1
        if trainer.is_global_zero and not is_trial(trainer):
            warn_of_missing_calibrations(self._decisions, pl_module.schedule, bool(self.heatmaps))
            self._begin(dataset.unchanged)
            log_left_out(dataset.files)
            self._skip([(path, skip_reason(path) or "") for path in dataset.files.others])
        wait_for_all()  # the folder may have been moved aside

    @property
    def _endings(self) -> dict[str, str]:
        """Suffix of the pictures of each kind, by the folder of the kind."""
        chosen = {HEATMAPS: self.heatmaps, MAPS: self.maps, MASKS: self.masks and "png"}
        return {kind: f".{suffix}" for kind, suffix in chosen.items() if suffix}

    def _choose_names(self, files: FoundFiles) -> dict[str, str]:
        """Names of the pictures by the paths of their images; earlier pictures keep theirs."""
        names = {path: os.path.relpath(path, files.root) for path in files.images}
        earlier, resumed = self._earlier.names, set(self._resumed)
        keys = {path_key(path): name for path, name in names.items()}
        settled = {keys[key]: earlier[key] for key in resumed & earlier.keys()}
        chosen = stems(list(names.values()), list(self._endings.values()), settled)
        return {path: chosen[name] for path, name in names.items()}

    def _begin(self, unchanged: Set[str]) -> None:
        earlier, resumed = self._earlier, self._resumed
        make_room(self._folder, earlier)
        write_state(self._folder, self._request, complete=False)
        stale = earlier.names.keys() - set(resumed)
        remove_pictures(self._folder, [earlier.names[key] for key in stale], self._endings)
        rows = [earlier.rows[key] for key in resumed]
        self._counts = Counter((row[PRODUCT], row[LABEL]) for row in rows)
        # files that are not images are checked again
        self._open(TABLE_FILE, COLUMNS, rows)
        identities = [earlier.images[key] for key in resumed]
        self._open(IMAGES_FILE, IMAGE_COLUMNS, sealed(identities, rows, earlier.boxes))
        self._open(SKIPPED_FILE, SKIPPED_COLUMNS, [])
        if self.boxes:
            done = {row[0] for row in rows}
            self._open(BOXES_FILE, BOX_COLUMNS, [row for row in earlier.boxes if row[0] in done])
        write_names(self._folder, {path_key(path): name for path, name in self._names.items()})
        if rows:
            logger.info(f"resuming after {len(rows)} images")
        if stale_rows := earlier.rows.keys() - unchanged:
            count = len(stale_rows)
            logger.info(f"removed {count} earlier rows: their images have changed or are gone")

    def write_on_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, prediction: Inspection | None,
        batch_indices: Sequence[int] | None, batch: PredictBatch, batch_idx: int,
        dataloader_idx: int,
    ) -> None:  # fmt: skip
        """Append a batch; an image's row is written after its other outputs."""
        if not is_trial(trainer):
            self._write_batch(prediction, batch)
        if trainer.received_sigterm:
            raise SIGTERMException  # Lightning's loop would run to the end

    def _write_batch(self, prediction: Inspection | None, batch: PredictBatch) -> None:
        self._skip(batch["skipped"])
        if prediction is None:
            return
        results = self._decisions.decide(prediction, batch["size"], batch["image"])
        decided = list(zip(batch["path"], results, strict=True))
        previews, boxes = iter(batch["preview"]), []
        for path, result in decided:
            self._write_pictures(path, result, next(previews, None))
            if self.boxes:
                boxes += [[path, *vars(b).values(), result.pixel_threshold] for b in result.boxes]
        self._counts.update((result.product, result.label or "") for _, result in decided)
        rows = [[path, *row_of(result)] for path, result in decided]
        if self.boxes:
            self._add(BOXES_FILE, boxes)
        self._add(TABLE_FILE, rows)
        # last: every image listed here has a row
        self._add(IMAGES_FILE, sealed(batch["identity"], rows, boxes))

    def on_predict_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Close the tables; log the decisions, the outputs, and the skipped files."""
        pl_module.predicted_task = None
        parts = gather((self._buffer, self._skipped, self._counts))
        if not trainer.is_global_zero or is_trial(trainer):
            return
        self._skipped = [name for _, names, _ in parts for name in names]
        for name, table in self._tables.items():
            rows = [row for buffer, _, _ in parts for row in buffer.get(name, [])]
            self._write(name, sorted(rows, key=self._place_of))
            with writing(table.name):
                table.close()
        whole = takes_every_batch(trainer.num_predict_batches, trainer.predict_dataloaders)
        write_state(self._folder, self._request, complete=whole)
        log_table(logger, decisions_table(sum((counts for _, _, counts in parts), Counter())))
        for line in places(self._folder):
            logger.info(line)
        if not whole:
            logger.warning("some images were left out: trainer.limit_predict_batches")
        if self._skipped:
            names = ", ".join(self._skipped[:NAMED]) + ", …" * (len(self._skipped) > NAMED)
            logger.info(
                f"skipped {len(self._skipped)} files that are not images: {names} "
                f"(reasons: {self._tables[SKIPPED_FILE].name})"
            )

    def _place_of(self, row: Sequence[Any]) -> int:
        """Position of a row; files that are not images by their name come first."""
        return self._places.get(path_key(row[0]), -1)

    def _write_pictures(self, path: str, result: Prediction, preview: np.ndarray | None) -> None:
        def target(kind: str) -> Path:
            return output_file(self._folder / kind, self._names[path], self._endings[kind])

        if self.maps is not None:
            save_map(result.anomaly_map, target(MAPS), self.maps)
        if self.masks and result.pixel_threshold is not None:
            save_mask(result.mask, target(MASKS))
        if preview is None or not self.heatmaps or result.median_patch_score is None:
            return
        # the drawing library is slow to import
        from moleflow_pl.inference.heatmap import draw_heatmap, save_picture

        picture = draw_heatmap(Image.fromarray(preview), result, self.boxes)
        save_picture(picture, target(HEATMAPS), self.heatmaps)

    def _skip(self, files: Sequence[tuple[str, str]]) -> None:
        self._skipped += [printable(os.path.basename(path)) for path, _ in files]
        self._add(SKIPPED_FILE, files)

    def _open(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        path = self._folder / name
        write_rows(path, columns, rows)
        with writing(path):
            self._tables[name] = path.open("a", newline="", encoding="utf-8")

    def _add(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        if self._shared:
            self._buffer.setdefault(name, []).extend(rows)
        else:
            self._write(name, rows)

    def _write(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        table = self._tables[name]
        with writing(table.name):
            write_cells(table, rows)
            table.flush()  # so that rows survive a stop


def sealed(
    identities: Sequence[Identity], rows: Sequence[Sequence[Any]], boxes: Iterable[Sequence[Any]]
) -> list[Sequence[Any]]:
    """Rows of `images.csv` for rows of the other tables: what they say cannot change unseen."""
    boxes_of = by_path(boxes)
    return [
        [*identity, seal_of(identity, row, boxes_of.get(row[0], []))]
        for identity, row in zip(identities, rows, strict=True)
    ]


def log_left_out(files: FoundFiles) -> None:
    """Log which files of the given path are left out."""
    reasons = [f"{files.hidden} hidden files"] if files.hidden else []
    if files.predictions:
        folders = ", ".join(map(printable, files.predictions[:NAMED]))
        more = ", …" * (len(files.predictions) > NAMED)
        reasons.append(f"output of `predict` in {folders}{more}")
    if reasons:
        logger.info(f"left out {' and '.join(reasons)}")


def row_of(result: Prediction) -> list[Any]:
    """The fields of a row after its path."""
    return [getattr(result, column) for column in COLUMNS[1:]]


def warn_of_missing_calibrations(
    decisions: DecisionMaker, schedule: TaskSchedule, heatmaps: bool
) -> None:
    """Warn of products without decisions, and of products without a novelty limit."""
    uncalibrated = [schedule.tasks[i].name for i in schedule.learned if i not in decisions.limits]
    if uncalibrated:
        what = "no label and no heatmap" if heatmaps else "no label"
        logger.warning(
            f"{what} for {uncalibrated}: they have no calibration images and so no thresholds; fit "
            "with data.val_fraction above 0"
        )
    calibrated = [schedule.tasks[i] for i in decisions.limits]
    unlimited = [task.name for task in calibrated if math.isinf(task.novelty_limit)]
    if unlimited:
        logger.warning(
            f"no image is called unknown: there is no novelty limit for {unlimited}; "
            "`moleflow experts update` computes one"
        )
