"""A CSV file with a row for each inspection."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moleflow_pl._internal.files import replaceable, writing
from moleflow_pl._internal.printable import write_cells
from moleflow_pl.service.sinks.base import SINKS, Sink

COLUMNS = (
    "id", "time", "source", "image", "product", "label", "score", "threshold", "normalised_score",
    "novelty_ratio", "router_distance", "router_margin", "model",
)  # fmt: skip


@SINKS.add("csv")
class CsvSink(Sink):
    """Appends inspections to a file; other events have no row."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.path = replaceable(Path(address).expanduser())

    def deliver(self, message: dict[str, Any]) -> None:
        if "id" not in message:
            return
        when = datetime.fromtimestamp(message["time"], UTC).isoformat(timespec="milliseconds")
        row = {**message, "time": when}
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                rows = [[row.get(name) for name in COLUMNS]]
                write_cells(file, [COLUMNS, *rows] if file.tell() == 0 else rows)
                file.flush()
                os.fsync(file.fileno())
