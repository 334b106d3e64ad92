"""What an earlier `predict` left in its folder, and whether the next one goes on from it."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleflow_pl._internal.files import read_json, regular, write_text
from moleflow_pl._internal.hashing import file_hash
from moleflow_pl._internal.schema import stamp
from moleflow_pl.checkpoints.io import plain
from moleflow_pl.checkpoints.run_folder import move_aside
from moleflow_pl.data.batches import Identity
from moleflow_pl.data.predict_dataset import STATE_FILE, TABLE_FILE
from moleflow_pl.errors import DataError, OutputError
from moleflow_pl.features.backbone import weights_hash
from moleflow_pl.module import MoLEFlow

logger = logging.getLogger(__name__)

IMAGES_FILE, BOXES_FILE = "images.csv", "boxes.csv"
# how all names begin that `predict` gives in its folder
OWN_NAMES = (
    STATE_FILE,
    TABLE_FILE,
    IMAGES_FILE,
    BOXES_FILE,
    "skipped.csv",
    "heatmaps",
    "maps",
    "masks",
    ".",
)


@dataclass
class Earlier:
    """What an earlier `predict` left.

    Attributes:
        rows: Rows of the same `predict` that was stopped, by the keys of their images. The last one
            is left out, since it may be torn.
        images: Which files these were of.
        boxes: Rows of `boxes.csv`, the last one perhaps torn.
        reason: Why the folder has to make room, in words; None where it need not.
    """

    rows: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, Identity] = field(default_factory=dict)
    boxes: list[list[str]] = field(default_factory=list)
    reason: str | None = None


def model_hash(path: str | Path | None, module: MoLEFlow) -> str:
    """Hash that tells a model with its thresholds from another: of its file, or of itself."""
    if path is not None:
        return file_hash(Path(path))
    tasks = json.dumps(plain(module.schedule.state()))
    return hashlib.sha256(f"{weights_hash(module)}{tasks}".encode()).hexdigest()


def write_state(folder: Path, request: Mapping[str, Any], complete: bool) -> None:
    """Write what a folder's predictions are of, and whether all of them are there."""
    state = {**stamp(), **request, "complete": complete}
    write_text(folder / STATE_FILE, json.dumps(state))


def look_at(folder: Path, request: Mapping[str, Any]) -> Earlier:
    """What there is in a folder for a `predict`, and whether it goes on from that.

    Raises:
        OutputError: the folder holds something else.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    if not {STATE_FILE, TABLE_FILE} & set(names):
        if all(name.startswith(OWN_NAMES) for name in names):
            return Earlier()  # it was stopped before it began
        raise OutputError(
            f"{folder} is not empty and holds no predictions: choose another --predictions.folder"
        )
    try:
        state = read_json(folder / STATE_FILE)
        if state.pop("complete", None) is not False:
            return Earlier(reason="are finished")
        if state != {**stamp(), **request}:
            return Earlier(reason="were of another model, other images or options")
        return stopped(folder)
    except DataError as error:
        return Earlier(reason=f"cannot be used ({error})")


def stopped(folder: Path) -> Earlier:
    """What a `predict` that was stopped has done.

    Raises:
        DataError: a table is damaged.
    """
    rows = rows_of(folder / TABLE_FILE)[:-1]
    images = [identity_from(row) for row in rows_of(folder / IMAGES_FILE)[: len(rows)]]
    return Earlier(
        {image.path: row for image, row in zip(images, rows, strict=False)},
        {image.path: image for image in images},
        rows_of(folder / BOXES_FILE),
    )


def identity_from(row: list[str]) -> Identity:
    """Which file a row of `images.csv` is of.

    Raises:
        DataError: it is no such row.
    """
    try:
        path, size, modified, digest = row
        return Identity(path, int(size), int(modified), digest)
    except ValueError as error:
        raise DataError(f"{IMAGES_FILE} is damaged: {error}") from error


def rows_of(path: Path) -> list[list[str]]:
    """Rows of a table below its header; none where there is no table.

    Raises:
        DataError: it is no table.
    """
    if not path.is_file():
        return []
    try:
        with regular(path).open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if any(len(row) != len(header) for row in rows[:-1]):
        raise DataError(f"{path} is damaged: a row has not {len(header)} fields")
    return rows


def make_room(folder: Path, earlier: Earlier) -> None:
    """Move predictions aside that this `predict` does not go on from."""
    if earlier.reason is not None:
        aside = move_aside(folder)
        logger.info(f"the predictions in {folder} {earlier.reason}; they are now in {aside}")
