"""Tables on the screen; names in them are text, never markup.

Only commands print (`print_table`). Everything else logs its tables, so that a Python program
decides whether and where they appear.
"""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from moleflow_pl._internal.printable import printable

PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}


class NamesTable(Table):
    """A rich table that shows cells as plain text; a list becomes a cell of several lines."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        lines = [cell if isinstance(cell, list) else [cell] for cell in cells]
        texts = [Text("\n".join(map(printable, cell_lines))) for cell_lines in lines]
        super().add_row(*texts, **options)


class TableMessage:
    """A table as the message of a log record, drawn only where the record is shown."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __str__(self) -> str:
        """The table as plain text, as wide as the screen."""
        console = Console(**PLAIN, force_terminal=False, force_jupyter=False)
        with console.capture() as captured:
            console.print(self.table)
        return captured.get().removesuffix("\n")


class TerminalHandler(RichHandler):
    """Shows records on a terminal, and draws tables with rich."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, TableMessage):
            print_table(record.msg.table)
        else:
            super().emit(record)


def print_table(table: Table) -> None:
    """Print a table."""
    Console(**PLAIN).print(table)


def log_table(logger: logging.Logger, table: Table) -> None:
    """Log a table at level INFO."""
    logger.info(TableMessage(table))
