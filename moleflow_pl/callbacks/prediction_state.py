"""The state of an earlier `predict` in its folder, and whether the next one resumes it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleflow_pl._internal.files import read_json, regular, require_folder, write_text
from moleflow_pl._internal.hashing import file_hash
from moleflow_pl._internal.printable import write_cells
from moleflow_pl._internal.result_names import (
    BOXES_FILE,
    HEATMAPS,
    IMAGES_FILE,
    MAPS,
    MASKS,
    PICTURE_NAMES_FILE,
    SKIPPED_FILE,
    STATE_FILE,
    TABLE_FILE,
)
from moleflow_pl._internal.schema import stamp
from moleflow_pl._internal.upgrade import Kind, upgrade
from moleflow_pl.callbacks.prediction_pictures import read_names
from moleflow_pl.checkpoints.io import plain
from moleflow_pl.checkpoints.run_folder import move_aside
from moleflow_pl.data.batches import Identity
from moleflow_pl.errors import CheckpointError, DataError, OutputError
from moleflow_pl.features.backbone import weights_hash
from moleflow_pl.module import MoLEFlow

logger = logging.getLogger(__name__)

# prefixes of all names that `predict` writes into its folder
OWN_NAMES = (
    STATE_FILE,
    TABLE_FILE,
    IMAGES_FILE,
    BOXES_FILE,
    PICTURE_NAMES_FILE,
    SKIPPED_FILE,
    HEATMAPS,
    MAPS,
    MASKS,
    ".",
)


@dataclass
class EarlierPredictions:
    """The results of an earlier `predict` in a folder.

    Attributes:
        rows: Whole rows of the same `predict`, if it was stopped, by the keys of their images.
        images: Identities of the images of these rows.
        boxes: Rows of `boxes.csv`; the last one may be incomplete.
        names: Names of the pictures of all images that it began with, by the keys of the images.
        reason: Why the folder must be moved aside, in words; None if it need not.
    """

    rows: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, Identity] = field(default_factory=dict)
    boxes: list[list[str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    reason: str | None = None


def model_hash(path: str | Path | None, module: MoLEFlow) -> str:
    """Hash of a model and its thresholds: that of its file, or of the model without a file."""
    if path is not None:
        return file_hash(Path(path))
    tasks = json.dumps(plain(module.schedule.state()))
    return hashlib.sha256(f"{weights_hash(module)}{tasks}".encode()).hexdigest()


def write_state(folder: Path, request: Mapping[str, Any], complete: bool) -> None:
    """Write the request of a folder's predictions, and whether they are complete."""
    state = {**stamp(), **request, "complete": complete}
    write_text(folder / STATE_FILE, json.dumps(state))


def check_place(folder: Path) -> None:
    """Check that a folder is free for predictions, or holds some.

    Raises:
        OutputError: the path is not a folder, or the folder holds something else.
    """
    require_folder(folder)
    names = os.listdir(folder) if folder.is_dir() else []
    known = {STATE_FILE, TABLE_FILE} & set(names)
    if not known and not all(name.startswith(OWN_NAMES) for name in names):
        raise OutputError(
            f"{folder} holds other files than predictions: choose another --predictions.folder"
        )


def read_earlier(folder: Path, request: Mapping[str, Any]) -> EarlierPredictions:
    """Read a folder of predictions, and decide whether `predict` resumes them.

    Raises:
        OutputError: the folder holds something else.
    """
    check_place(folder)
    if not any(os.path.lexists(folder / name) for name in (STATE_FILE, TABLE_FILE)):
        return EarlierPredictions()  # it was stopped before it began
    try:
        state = upgrade(Kind.PREDICTIONS, read_json(folder / STATE_FILE), STATE_FILE)
        if state.pop("complete", None) is not False:
            return EarlierPredictions(reason="are finished")
        if state != {**stamp(), **request}:
            return EarlierPredictions(reason="had another model, other images or other options")
        return read_stopped(folder)
    except (CheckpointError, DataError) as error:
        return EarlierPredictions(reason=f"cannot be used ({error})")


def read_stopped(folder: Path) -> EarlierPredictions:
    """Read the results of a `predict` that was stopped.

    Raises:
        DataError: a table is damaged.
    """
    rows, images = rows_of(folder / TABLE_FILE), rows_of(folder / IMAGES_FILE)
    earlier = EarlierPredictions(boxes=rows_of(folder / BOXES_FILE), names=read_names(folder))
    boxes = by_path(earlier.boxes)
    for row, image in zip(rows, images, strict=False):
        if image[-1:] == [seal_of(image[:-1], row, boxes.get(row[0], []))]:
            identity = identity_from(image[:-1])
            earlier.rows[identity.path], earlier.images[identity.path] = row, identity
        elif image is not images[-1]:  # which a stop may leave incomplete
            names = f"{TABLE_FILE}, {BOXES_FILE} or {IMAGES_FILE}"
            raise DataError(f"{names} is damaged: they disagree about {row[0]}")
    return earlier


def by_path(rows: Iterable[Sequence[Any]]) -> dict[str, list[Sequence[Any]]]:
    """The rows of each image, whose path they begin with."""
    found: dict[str, list[Sequence[Any]]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row)
    return found


def seal_of(image: Sequence[Any], row: Sequence[Any], boxes: Iterable[Sequence[Any]]) -> str:
    """SHA-256 over what the tables say of an image: its identity, its decision and its boxes."""
    written = io.StringIO()
    write_cells(written, [image, row, *boxes])
    return hashlib.sha256(written.getvalue().encode()).hexdigest()


def identity_from(row: list[str]) -> Identity:
    """The identity of an image from a row of `images.csv`.

    Raises:
        DataError: the row is damaged.
    """
    try:
        path, size, modified, digest = row
        return Identity(path, int(size), int(modified), digest)
    except ValueError as error:
        raise DataError(f"{IMAGES_FILE} is damaged: {error}") from error


def rows_of(path: Path) -> list[list[str]]:
    """Rows of a CSV file below its header; empty without a file.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        with regular(path).open(newline="", encoding="utf-8") as file:
            header, *rows = filter(None, csv.reader(file))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if any(len(row) != len(header) for row in rows[:-1]):
        raise DataError(f"{path} is damaged: a row does not have {len(header)} fields")
    return rows


def make_room(folder: Path, earlier: EarlierPredictions) -> None:
    """Move predictions aside that this `predict` does not resume."""
    if earlier.reason is not None:
        aside = move_aside(folder)
        logger.info(f"the predictions in {folder} {earlier.reason}; they are now in {aside}")
