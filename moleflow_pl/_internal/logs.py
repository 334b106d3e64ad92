"""What the command reports while it runs: the logger `moleflow_pl`, shown on standard output.

Until a Python program that imports the package configures `logging`, it sees warnings alone, on
standard error.
"""

from __future__ import annotations

import logging
import os
import sys

from moleflow_pl._internal.printable import printable_lines

NAME = "moleflow_pl"
# variables by which launchers number processes: torchrun, Lightning, SLURM, LSF
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class PlainText(logging.Formatter):
    """Formats messages with control characters escaped: names in them cannot steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class PlainHandler(logging.Handler):
    """Writes messages to the current standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stdout.write(f"{self.format(record)}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # the reader is gone: the command stops
        except Exception:
            self.handleError(record)


def configure() -> None:
    """Show messages of level INFO and above, formatted on a terminal and plain in a pipe.

    May be called more than once. Of several processes, only the first shows messages.
    """
    logger = logging.getLogger(NAME)
    for handler in [h for h in logger.handlers if h.name == NAME]:
        logger.removeHandler(handler)
    handler = terminal_handler() if sys.stdout.isatty() else PlainHandler()
    handler.name = NAME
    handler.setFormatter(PlainText())
    handler.addFilter(lambda record: is_first_process())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def terminal_handler() -> logging.Handler:
    """Return rich's handler, reduced to the messages: no time, level, path or markup."""
    from moleflow_pl._internal.console import TerminalHandler  # a pipe needs no rich

    return TerminalHandler(show_time=False, show_level=False, show_path=False, markup=False)


def is_first_process() -> bool:
    """Return whether this process is alone or the first of several, without importing torch."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
