"""Figures of a benchmark with their limits: a table, a line of JSON, an exit code.

For all scripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from moleflow_pl._internal.allocator import keep_freed_memory
from moleflow_pl._internal.provenance import hardware, versions

WIDTH = 140  # characters of the printed table
COLUMNS = ("figure", "measured", "limit", "holds", "note")


@dataclass
class Row:
    """One figure of a benchmark.

    Attributes:
        what: What was measured.
        value: The figure; None where it cannot be measured here.
        unit: Its unit.
        least: Lower limit, if there is one.
        most: Upper limit, if there is one.
        note: How it was measured.

    Example:
        >>> Row("ratio", 1.0, "x", least=1.8).cells
        ('ratio', '1 x', 'at least 1.8', '**no**', '')
    """

    what: str
    value: float | None
    unit: str
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure is within its limits; a figure that was not measured is."""
        if self.value is None:
            return True
        # written so that NaN fails
        above = self.least is None or self.value >= self.least
        return above and (self.most is None or self.value <= self.most)

    @property
    def shown(self) -> str:
        """The figure with its unit."""
        if self.value is None:
            return "not measured here"
        return f"{self.value:.3g} {self.unit}".strip()

    @property
    def limit(self) -> str:
        """The limits in words; empty without limits."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"at least {self.least:g}"
        return "" if self.most is None else f"at most {self.most:g}"

    @property
    def verdict(self) -> str:
        """`yes` or `**no**`; empty without limits or without a figure."""
        if self.value is None or not self.limit:
            return ""
        return "yes" if self.holds else "**no**"

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of a table, in the order of `COLUMNS`."""
        return self.what, self.shown, self.limit, self.verdict, self.note


@dataclass
class Report:
    """All figures of a benchmark.

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
        """Add a figure and print it at once: a benchmark may run for hours."""
        self.rows.append(row)
        limit = f" ({row.limit})" if row.limit else ""
        print(f"{row.what}: {row.shown}{limit} {row.note}".rstrip(), flush=True)

    def add_all(self, rows: Iterable[Row]) -> None:
        """Add figures as they come."""
        for row in rows:
            self.add(row)

    @property
    def failed(self) -> int:
        """Number of figures that miss their limit."""
        return sum(not row.holds for row in self.rows)

    def finish(self) -> int:
        """Print the table and the JSON line; return the exit code: 1 if a figure misses a limit."""
        table = Table(*COLUMNS, title=f"benchmarks.{self.name}")
        for row in self.rows:
            table.add_row(*row.cells)
        Console(width=WIDTH).print(table)
        rows = [{**asdict(row), "holds": row.holds} for row in self.rows]
        print(json.dumps({**about(self.name), "rows": rows}))
        return int(self.failed > 0)

    def markdown(self) -> Iterator[str]:
        """The table as lines of Markdown."""
        yield from markdown_table([*COLUMNS[:-1], ""], (row.cells for row in self.rows))


def about(name: str) -> dict[str, Any]:
    """What a line or file of JSON says besides figures: benchmark, machine, versions."""
    return {"benchmark": name, "hardware": hardware(), "versions": versions()}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table as lines of Markdown.

    Example:
        >>> list(markdown_table(("a", "b"), [("1", "2")]))
        ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    yield f"| {' | '.join(head)} |"
    yield "| --- " * len(head) + "|"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def benchmark(name: str, *parts: Callable[[Report], None]) -> int:
    """Run the parts of a benchmark; return the exit code of the process.

    Freed memory is kept, as in every command of `moleflow`.
    """
    keep_freed_memory()
    report = Report(name)
    for part in parts:
        part(report)
    return report.finish()
