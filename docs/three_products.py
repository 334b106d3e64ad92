"""Lays out the images of three products for the pictures: `python -m docs.three_products IMAGES`.

Solar cells of the package elpv-dataset (CC BY-NC-SA 4.0), and tablets that are drawn here.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from moleflow_pl.data.layouts.elpv import ELPVLayout

TRAIN, TEST = 120, 60  # good images of a product to learn from; images of each kind to test with
SIDE = 256  # of a tablet's picture
RADIUS = 92.0
TABLET, BELT, STAIN = (238, 176, 120), (70, 92, 112), (110, 70, 40)

Pixels = np.ndarray


def lay_out_cells(images: Path) -> None:
    """Copy solar cells out of their package."""
    cells = ELPVLayout()
    for product in cells.products():
        tests = cells.test(product)
        parts = {
            "train/good": cells.train(product)[:TRAIN],
            "test/good": [record for record in tests if not record.gt_label][:TEST],
            "test/defective": [record for record in tests if record.gt_label][:TEST],
        }
        for part, records in parts.items():
            folder = images / product / part
            folder.mkdir(parents=True, exist_ok=True)
            for record in records:
                shutil.copy(record.path, folder)


def noise(generator: np.random.Generator, sigma: float | tuple[float, float]) -> Pixels:
    """Smooth noise (SIDE, SIDE) of standard deviation 1."""
    found = gaussian_filter(generator.standard_normal((SIDE, SIDE)), sigma, mode="wrap")
    return found / found.std()


def chip(cover: Pixels, surface: Pixels, generator: np.random.Generator) -> None:
    """Break a piece off the rim."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle, size = generator.uniform(0, 2 * np.pi), generator.uniform(20, 32)
    away = np.hypot(y - RADIUS * np.sin(angle), x - RADIUS * np.cos(angle))
    cover *= np.clip((away - size - 3 * noise(generator, 4)) / 2, 0, 1)


def crack(cover: Pixels, surface: Pixels, generator: np.random.Generator) -> None:
    """Let a dark line walk over the tablet."""
    line, place = np.zeros((SIDE, SIDE)), generator.uniform(-40, 40, 2)
    heading = generator.uniform(0, 2 * np.pi)
    for _ in range(110):
        heading += generator.normal(0, 0.18)
        place += np.sin(heading), np.cos(heading)
        if np.hypot(*place) < RADIUS:
            line[tuple((place + SIDE / 2).astype(int))] = 1
    line = gaussian_filter(line, 1.3)
    surface *= 1 - 0.75 * (line / line.max())[..., None]


def stain(cover: Pixels, surface: Pixels, generator: np.random.Generator) -> None:
    """Drop something dark on it."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 - generator.uniform(-45, 45, (2, 1, 1))
    share = np.clip((18 + 5 * noise(generator, 6) - np.hypot(y, x)) / 4, 0, 1)[..., None] * 0.7
    surface *= 1 - share
    surface += share * STAIN


DEFECTS: dict[str, Callable[[Pixels, Pixels, np.random.Generator], None]] = {
    "chip": chip,
    "crack": crack,
    "stain": stain,
}


def tablet(generator: np.random.Generator, defect: str | None = None) -> Image.Image:
    """Draw a tablet with a score line on a belt, and perhaps a defect."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 - generator.normal(0, 2.5, (2, 1, 1))
    away, angle = np.hypot(y, x), generator.normal(np.pi / 4, 0.08)
    groove = np.exp(-(((x * np.sin(angle) - y * np.cos(angle)) / 4) ** 2))
    shade = 1.06 - 0.4 * (away / RADIUS) ** 6 - 0.12 * (x + y) / RADIUS - 0.28 * groove
    surface = (shade + 0.025 * noise(generator, 1.2))[..., None] * TABLET
    cover = np.clip((RADIUS - away) / 1.5, 0, 1)
    if defect is not None:
        DEFECTS[defect](cover, surface, generator)
    shadow = gaussian_filter(np.roll(cover, (7, 7), (0, 1)), 6)
    belt = (1 - 0.45 * shadow + 0.04 * noise(generator, (0.7, 14)))[..., None] * BELT
    pixels = cover[..., None] * surface + (1 - cover[..., None]) * belt
    light = generator.normal(1, 0.02)
    return Image.fromarray(np.clip(light * pixels, 0, 255).astype(np.uint8))


def lay_out_tablets(images: Path) -> None:
    """Draw the tablets."""
    generator = np.random.default_rng(0)
    parts: dict[str, tuple[str | None, int]] = {
        "train/good": (None, TRAIN),
        "test/good": (None, TEST),
        **{f"test/{name}": (name, TEST // len(DEFECTS)) for name in DEFECTS},
    }
    for part, (defect, count) in parts.items():
        folder = images / "tablet" / part
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            tablet(generator, defect).save(folder / f"{i:03}.png")


def main() -> None:
    """Write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder to write")
    images = parser.parse_args().images
    lay_out_cells(images)
    lay_out_tablets(images)


if __name__ == "__main__":
    main()
