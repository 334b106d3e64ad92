"""What an earlier `predict` left in its folder, and whether the next one goes on from it."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moleflow_pl._internal.files import write_text
from moleflow_pl._internal.schema import stamp
from moleflow_pl.checkpoints.io import plain
from moleflow_pl.checkpoints.run_folder import move_aside
from moleflow_pl.features.backbone import weights_hash
from moleflow_pl.module import MoLEFlow

logger = logging.getLogger(__name__)

STATE_FILE = "run.json"


def model_hash(path: str | Path | None, module: MoLEFlow) -> str:
    """Hash that tells a model with its thresholds from another: of its file, or of itself."""
    if path is not None:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    tasks = json.dumps(plain(module.schedule.state()))
    return hashlib.sha256(f"{weights_hash(module)}{tasks}".encode()).hexdigest()


def write_state(folder: Path, request: Mapping[str, Any], complete: bool) -> None:
    """Write what a folder's predictions are of, and whether all of them are there."""
    state = {**stamp(), **request, "complete": complete}
    write_text(folder / STATE_FILE, json.dumps(state))


def read_state(folder: Path) -> dict[str, Any] | None:
    """What a folder's predictions are of; None where there are none."""
    path = folder / STATE_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def finished_rows(folder: Path, request: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the same `predict` that was stopped; none of another, or of one that ended.

    The last row is left out: it may be torn, and there is always something left to do.
    """
    if read_state(folder) != {**stamp(), **request, "complete": False}:
        return []
    return rows_of(folder / "predictions.csv")[:-1]


def rows_of(path: Path) -> list[list[str]]:
    """Rows of a table below its header; none where there is no table."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def make_room(folder: Path, request: Mapping[str, Any]) -> None:
    """Move predictions aside that another model, other images or other options made."""
    state = read_state(folder)
    if state is None:
        return
    state.pop("complete", None)
    if state != {**stamp(), **request}:
        aside = move_aside(folder)
        logger.info(
            f"the predictions in {folder} were of another model, other images or options; they are "
            f"now in {aside}"
        )
