"""Times things side by side, and says whether the figures are what they have to be."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from moleflow_pl._internal.provenance import hardware, versions

ROUNDS = 5


def alternate(
    sides: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS, warm: bool = True
) -> dict[str, float]:
    """Median seconds of each side, run in turn `rounds` times after one run to warm up.

    Example:
        >>> sorted(alternate({"a": lambda: None, "b": lambda: None}, rounds=1))
        ['a', 'b']
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    if warm:
        for side in sides.values():
            side()
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


@dataclass
class Row:
    """One figure of a benchmark.

    Attributes:
        what: What was measured.
        value: The figure; None where it cannot be measured here.
        unit: Its unit.
        least: Smallest value that will do, if there is one.
        most: Largest value that will do, if there is one.
        note: How it came about.
    """

    what: str
    value: float | None
    unit: str
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure is within its limits; one that cannot be measured here is."""
        if self.value is None:
            return True
        low = self.least is None or self.value >= self.least
        return low and (self.most is None or self.value <= self.most)


@dataclass
class Report:
    """The figures of a benchmark: a table, a line of JSON, an exit code.

    Example:
        >>> report = Report("x")
        >>> report.add(Row("ratio", 2.0, "x", least=1.8, note="of two"))
        ratio: 2 x (at least 1.8) of two
        >>> report.failed
        0
    """

    name: str
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Take in a figure, and show it at once: a benchmark runs for long."""
        self.rows.append(row)
        print(f"{row.what}: {shown(row)} ({limit(row)}) {row.note}", flush=True)

    @property
    def failed(self) -> int:
        """How many figures miss their limit."""
        return sum(not row.holds for row in self.rows)

    def finish(self) -> int:
        """Print table and JSON; the exit code of the process."""
        table = Table(title=f"benchmarks.{self.name}")
        for column in ("figure", "measured", "limit", "holds", "note"):
            table.add_column(column)
        for row in self.rows:
            table.add_row(row.what, shown(row), limit(row), verdict(row), row.note)
        Console(width=140).print(table)
        rows = [{**asdict(row), "holds": row.holds} for row in self.rows]
        facts = {"benchmark": self.name, "hardware": hardware(), "versions": versions()}
        print(json.dumps({**facts, "rows": rows}))
        return int(self.failed > 0)


def benchmark(name: str, *parts: Callable[[Report], None]) -> int:
    """Run the parts of a benchmark; the exit code of the process."""
    report = Report(name)
    for part in parts:
        part(report)
    return report.finish()


def shown(row: Row) -> str:
    """A figure as it is printed."""
    return "not measured here" if row.value is None else f"{row.value:.3g} {row.unit}".strip()


def verdict(row: Row) -> str:
    """Whether it holds as it is printed: nothing where there is no limit or no figure.

    Example:
        >>> verdict(Row("ratio", 1.0, "x", least=1.8)), verdict(Row("ratio", 1.0, "x"))
        ('**no**', '')
    """
    if row.value is None or not limit(row):
        return ""
    return "yes" if row.holds else "**no**"


def limit(row: Row) -> str:
    """A limit as it is printed."""
    if row.least is not None and row.most is not None:
        return f"{row.least:g} to {row.most:g}"
    if row.least is not None:
        return f"at least {row.least:g}"
    return "" if row.most is None else f"at most {row.most:g}"
