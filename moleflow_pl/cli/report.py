"""`moleflow report`: compare several runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from moleflow_pl.cli.mistakes import VerbParser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb's options."""
    parser = VerbParser(
        prog="moleflow report",
        description=main.__doc__,
        epilog="example: moleflow report --run runs/demo --run runs/demo~1 --output comparison",
    )
    parser.add_argument("--run", type=Path, action="append", required=True, help="a run folder")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="output folder")
    return parser


def main(args: Sequence[str]) -> None:
    """Compare several runs in tables and figures: seeds, task orders or ablations."""
    options = make_parser().parse_args(args)
    # after parsing: matplotlib is slow to import
    from moleflow_pl._internal.console import print_table
    from moleflow_pl._internal.printable import printable
    from moleflow_pl.report.comparison import compare

    tables, files = compare(options.run, options.output)
    for table in tables:
        print_table(table)
    for path in files:
        print(printable(path))
