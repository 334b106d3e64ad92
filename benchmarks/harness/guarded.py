"""Runs parts of a benchmark within a time limit; a failed part does not stop the others."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.report import Report, Row, about
from moleflow_pl.errors import is_out_of_memory

FAILED = float("nan")  # misses every limit


class Session:
    """Runs parts one after another; a failure is recorded, and the next part runs.

    Args:
        report: Receives the figures.
        seconds: Time for all parts; parts that would begin later are left out.
        now: Returns the time in seconds.

    Attributes:
        failures: What failed, by part, with its traceback.
    """

    def __init__(
        self, report: Report, seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.report = report
        self.failures: dict[str, str] = {}
        self._now, self._end = now, now() + seconds

    @property
    def seconds_left(self) -> float:
        """Remaining time."""
        return self._end - self._now()

    def add(self, what: str, value: float | None, unit: str = "", **options: Any) -> None:
        """Add a figure."""
        self.report.add(Row(what, value, unit, **options))

    def run(self, name: str, part: Callable[[], object]) -> bool:
        """Run a part; return whether it finished."""
        if self.seconds_left <= 0:
            self.add(name, None, note="left out: no time left")
            return False
        try:
            part()
        except Exception as error:  # any failure: the next part may work
            if is_out_of_memory(error):
                self.add(name, None, note="out of memory")
                return False
            self.failures[name] = traceback.format_exc()
            text = " ".join(str(error).split())[:120]
            self.add(name, FAILED, least=0, note=f"failed: {type(error).__name__}: {text}")
            return False
        return True

    def write(self, path: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write all figures, failures, the machine, the versions and more facts as JSON."""
        rows = [
            {**asdict(row), "value": None if row.value != row.value else row.value,
             "holds": row.holds}
            for row in self.report.rows
        ]  # fmt: skip
        content = {
            **about(self.report.name), **(more or {}), "rows": rows, "failures": self.failures,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
