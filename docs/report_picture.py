"""Takes the picture of a report's page: `python -m docs.report_picture RUN docs/report.png`."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from PIL import Image

SIZE = "930,2025"
COLOURS = 128  # a third of the file


def take(run: Path, picture: Path) -> None:
    """Open the report of a run in a browser, and keep what it shows."""
    page = (run / "report" / "report.html").resolve().as_uri()
    browser = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars"]
    place = [f"--screenshot={picture.resolve()}", f"--window-size={SIZE}"]
    subprocess.run([*browser, *place, page], check=True, capture_output=True)
    Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


def main() -> None:
    """Read the arguments, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a fit")
    parser.add_argument("picture", type=Path, help="PNG to write")
    given = parser.parse_args()
    take(given.run, given.picture)


if __name__ == "__main__":
    main()
