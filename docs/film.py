"""Draws the picture that moves: `python -m docs.film RUN IMAGES`.

RUN learned the products of IMAGES (docs/three_products.py) in its order. Writes film-light.webp and
film-dark.webp to docs/pictures, and their last frames as PNG for who wants nothing to move.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.markers import CARETUP
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from docs.diagrams import FOLDER
from docs.picture import Inspected, inspect
from docs.themes import COLOURS, decision_text, styled
from moleflow_pl import Predictor

WIDTH, HEIGHT, DPI = 660, 556, 144  # a hundred units to the inch
FADE, STEPS = 0.2, 2  # seconds, frames
LEARN, DECIDE, REST = 2.0, 2.2, 5.0  # seconds a product, an image, and at the end
CARD, SLOT, GAP = 210, 120, 15  # widths
MARGIN = 3
GOOD_IMAGES = 3  # on a card
# what arrives at the line: product, kind of image, its name
ARRIVING = [
    ("solar_mono", "defective", "cell0363"), ("tablet", "good", "030"),
    ("solar_poly", "defective", "cell0250"), ("solar_mono", "good", "cell0942"),
    ("tablet", "crack", "010"),
]  # fmt: skip
SIZE = 12.5  # of text, in points


@dataclass
class Actor:
    """Something that is drawn for a while.

    Attributes:
        artist: What matplotlib draws.
        start: When it comes, in seconds.
        end: When it goes.
    """

    artist: Artist
    start: float
    end: float = np.inf

    def show(self, time: float) -> None:
        """Give it the strength that it has at this time."""
        strength = min(time - self.start, self.end - time) / FADE
        self.artist.set_alpha(min(max(strength, 0.0), 1.0))


class Stage:
    """A figure whose parts come and go.

    Args:
        theme: Its colours.
    """

    def __init__(self, theme: str) -> None:
        self.colours, self.actors = COLOURS[theme], list[Actor]()
        self.figure = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100))
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(-MARGIN, WIDTH + MARGIN), ylim=(HEIGHT, 0))
        self.axes.axis("off")

    def add(self, artist: Artist, start: float, end: float = np.inf) -> None:
        """Add what is drawn over all that was added before."""
        artist.set_zorder(10 + len(self.actors))
        self.actors.append(Actor(artist, start, end))

    def text(self, place: tuple[float, float], text: str, start: float, **style: Any) -> None:
        """Write in the middle of a place."""
        style = {"ha": "center", "va": "center", "fontsize": SIZE, **style}
        self.add(self.axes.text(*place, text, **style), start)

    def box(
        self, place: tuple[float, float, float, float], kind: str, start: float, end: float = np.inf
    ) -> None:
        """Draw a box: left, top, width, height."""
        left, top, width, height = place
        style: dict[str, Any] = {
            "facecolor": self.colours[kind],
            "edgecolor": self.colours["ink"],
            "linewidth": 0.6,
        }
        shape = "round,pad=0,rounding_size=6"
        patch = FancyBboxPatch((left, top), width, height, boxstyle=shape, **style)
        self.add(self.axes.add_patch(patch), start, end)

    def image(
        self, image: Image.Image, place: tuple[float, float], side: int, start: float
    ) -> None:
        """Draw a square image, its left upper corner at a place."""
        left, top = place
        pixels = round(side * DPI / 100)
        small = image.resize((pixels, pixels), Image.Resampling.LANCZOS)
        extent = (left, left + side, top + side, top)
        shown = self.axes.imshow(small, extent=extent, aspect="auto", interpolation="nearest")
        self.add(shown, start)

    def arrow(self, points: Sequence[tuple[float, float]], start: float, end: float) -> None:
        """Draw a line with an arrow's tip at its last point."""
        style: dict[str, Any] = {"color": self.colours["ink"], "linewidth": 2}
        x, y = zip(*points, strict=True)
        (line,) = self.axes.plot(x, (*y[:-1], y[-1] + 4), **style)
        (tip,) = self.axes.plot(x[-1], y[-1], marker=CARETUP, markersize=8, **style)
        self.add(line, start, end)
        self.add(tip, start, end)

    def times(self) -> list[float]:
        """When something changes, and a few steps after each."""
        moments = (
            {0.0} | {one.start for one in self.actors} | {one.end - FADE for one in self.actors}
        )
        steps = [FADE * (i + 1) / STEPS for i in range(STEPS)]
        found = {moment + step for moment in moments if moment < np.inf for step in steps}
        return sorted({round(time, 2) for time in found})

    def frames(self) -> Iterator[tuple[Image.Image, float]]:
        """Yield each frame, and its time."""
        for time in self.times():
            for actor in self.actors:
                actor.show(time)
            buffer = io.BytesIO()
            self.figure.savefig(buffer, dpi=DPI)
            yield Image.open(buffer).convert("RGB"), time


def learn(stage: Stage, names: Sequence[str], images: Path) -> None:
    """Show one product after another being learned; the shared flow is frozen after the first."""
    stage.box((0, 4, WIDTH, 32), "shared", 0.0)
    stage.box((0, 4, WIDTH, 32), "frozen", LEARN)
    stage.text((WIDTH / 2, 20), "one shared flow, frozen after the first product", 0.0)
    for i, name in enumerate(names):
        left, start = i * (CARD + GAP), i * LEARN
        good = sorted((images / name / "train" / "good").iterdir())[:GOOD_IMAGES]
        stage.box((left, 46, CARD, 150), "plain", start)
        stage.text((left + CARD / 2, 64), name, start, fontweight="bold")
        for j, path in enumerate(good):
            stage.image(Image.open(path).convert("RGB"), (left + 7 + 67 * j, 79), 62, start)
        stage.text((left + CARD / 2, 156), "from good images alone", start, fontsize=0.9 * SIZE)
        stage.box((left + 7, 168, CARD - 14, 24), "task", start + LEARN / 2)
        stage.text((left + CARD / 2, 180), "an expert of its own", start + LEARN / 2)


def decide(stage: Stage, names: Sequence[str], arrived: Sequence[Inspected]) -> None:
    """Let images arrive: each is routed, gets a heatmap and a decision."""
    for i, (image, prediction) in enumerate(arrived):
        left, start = i * (SLOT + GAP), len(names) * LEARN + i * DECIDE
        middle, card = left + SLOT / 2, names.index(prediction.product) * (CARD + GAP) + CARD / 2
        stage.image(image, (left, 236), SLOT, start)
        way = [(middle, 236), (middle, 218), (card, 218), (card, 200)]
        stage.arrow(way, start + 0.4, start + DECIDE)
        stage.image(prediction.plot(image, boxes=False), (left, 362), SLOT, start + 0.9)
        text, kind = decision_text(prediction)
        colour = stage.colours[kind]
        stage.text((middle, 498), prediction.product, start + 0.4)
        score, label = text.split("\n")
        stage.text((middle, 520), score, start + 1.3, color=colour)
        stage.text((middle, 542), label, start + 1.3, color=colour, fontweight="bold")


def save(stage: Stage, target: Path) -> None:
    """Write the film, and its last frame."""
    frames, times = zip(*stage.frames(), strict=True)
    until = [*times[1:], times[-1] + REST]
    lasting = [round(1000 * (end - start)) for start, end in zip(times, until, strict=True)]
    first, *others = frames
    first.save(
        target.with_suffix(".webp"), save_all=True, append_images=others, duration=lasting, loop=0,
        quality=75, method=6, minimize_size=False, kmax=1000,
    )  # fmt: skip
    frames[-1].quantize(256).save(target.with_suffix(".png"), optimize=True)


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    given = parser.parse_args()
    predictor = Predictor.load(given.run)
    paths = [given.images / name / "test" / kind / f"{file}.png" for name, kind, file in ARRIVING]
    arrived = inspect(predictor, paths)
    for theme in COLOURS:
        with styled(theme):
            stage = Stage(theme)
            learn(stage, predictor.products, given.images)
            decide(stage, predictor.products, arrived)
            save(stage, FOLDER / f"film-{theme}")
            plt.close(stage.figure)


if __name__ == "__main__":
    main()
