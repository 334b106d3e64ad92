"""Takes pictures of pages with Chromium."""

from __future__ import annotations

import subprocess
from pathlib import Path

from PIL import Image

COLOURS = 128  # a third of the file


def shoot(address: str, picture: Path, size: str, dark: bool = False) -> None:
    """Open a page in a window of a size (width,height), and write what it shows to a PNG."""
    browser = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars"]
    browser += ["--force-dark-mode"] * dark
    target = [f"--screenshot={picture.resolve()}", f"--window-size={size}", address]
    subprocess.run([*browser, *target], check=True, capture_output=True)
    Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)
