"""Takes the picture of a report's page: `python -m docs.report_picture RUN docs/report.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from docs.browser import shoot

SIZE = "1100,1890"


def take(run: Path, picture: Path) -> None:
    """Open the report of a run in a browser, and keep what it shows."""
    shoot((run / "report" / "report.html").resolve().as_uri(), picture, SIZE)


def main() -> None:
    """Read the arguments, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a fit")
    parser.add_argument("picture", type=Path, help="PNG to write")
    given = parser.parse_args()
    take(given.run, given.picture)


if __name__ == "__main__":
    main()
