"""Tables on the screen; names in them are text, never markup."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moleflow_pl._internal.printable import printable


class NamesTable(Table):
    """A rich table that shows cells as plain text; a list becomes a cell of several lines."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        lines = [cell if isinstance(cell, list) else [cell] for cell in cells]
        texts = [Text("\n".join(map(printable, cell_lines))) for cell_lines in lines]
        super().add_row(*texts, **options)


def print_table(table: Table) -> None:
    """Print a table."""
    Console(markup=False, emoji=False, highlight=False).print(table)
