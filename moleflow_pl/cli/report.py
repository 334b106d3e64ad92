"""`moleflow report`: several runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(args: Sequence[str]) -> None:
    """Set several runs side by side, as tables and pictures."""
    parser = argparse.ArgumentParser(
        prog="moleflow report",
        description=main.__doc__,
        epilog="example: moleflow report --run runs/demo --run runs/demo~1 --output comparison",
    )
    parser.add_argument("--run", type=Path, action="append", required=True, help="a run folder")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="where to write")
    given = parser.parse_args(args)
    # the drawing library behind it is slow to import
    from moleflow_pl.report.comparison import compare

    for path in compare(given.run, given.output):
        print(path)
