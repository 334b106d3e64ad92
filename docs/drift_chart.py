"""Draws the control chart of a line whose lamp ages: `python -m docs.drift_chart`.

A simulation: the numbers of good images come from normal distributions; after a while each image is
a little darker than the one before. Writes drift-light.svg and drift-dark.svg to docs/pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from docs.diagrams import FOLDER
from docs.themes import COLOURS, styled
from moleflow_pl import Prediction
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.inference.drift import (
    CHANNELS,
    EARLIER,
    IMAGES_PER_FALSE_ALARM,
    Drift,
    DriftMonitor,
)
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule

PRODUCT, IMAGES = "tablet", 100  # that calibrated it
STEADY, AGEING = 250, 100  # images
LOSS = 0.0004  # of brightness, with each image
LEAST = -0.15  # of the evidence that is drawn
STATES = {"warning": "unknown_product", "drift": "anomalous"}  # their colours


def drawn(generator: np.random.Generator, count: int) -> dict[str, list[float]]:
    """Numbers of good images, by channel."""
    return {
        "score": generator.normal(10, 1, count).tolist(),
        "router_distance": generator.normal(9, 1, count).tolist(),
        "novelty_ratio": generator.normal(0.6, 0.05, count).tolist(),
        "brightness": generator.normal(0.4, 0.01, count).tolist(),
    }


def calibrated(generator: np.random.Generator) -> TaskSchedule:
    """A product that was learned and calibrated."""
    schedule, numbers = TaskSchedule(), drawn(generator, IMAGES)
    schedule.extend([[PRODUCT]], epochs=1)
    (task,) = schedule.tasks
    task.epochs_done = 1
    task.calibration = Calibration(
        scores=numbers["score"],
        high_patch_scores=numbers["score"],
        median_patch_scores=numbers["score"],
        novelty_distances=numbers["novelty_ratio"],
        damaged_novelty_distances=[1.0] * IMAGES,
        brightness=numbers["brightness"],
    )
    return schedule


def line(generator: np.random.Generator) -> Iterator[Prediction]:
    """Yield the predictions of a line."""
    columns = drawn(generator, STEADY + AGEING)
    for i in range(STEADY + AGEING):
        values: dict[str, Any] = {name: column[i] for name, column in columns.items()}
        values["brightness"] -= LOSS * max(0, i - STEADY)
        yield Prediction(
            product=PRODUCT, router_margin=None, patch_scores=torch.zeros(1, 1), size=(8, 8),
            label="normal", **values,
        )  # fmt: skip


def tint(axes: Axes, drifts: Sequence[Drift], colours: dict[str, str]) -> None:
    """Colour where there was a warning or drift."""
    for state, run in groupby(enumerate(drifts), lambda pair: pair[1].state):
        places = [i for i, _ in run]
        if state in STATES:
            colour = colours[STATES[state]]
            axes.axvspan(places[0] - 0.5, places[-1] + 0.5, color=colour, alpha=0.18, linewidth=0)


def draw(seen: Sequence[Prediction], drifts: Sequence[Drift], theme: str) -> plt.Figure:
    """Draw the brightness of each image above the evidence of each channel."""
    colours = COLOURS[theme]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 5), height_ratios=(2, 3))
    for axes in (above, below):
        tint(axes, drifts, colours)
        axes.axvline(STEADY, color=colours["ink"], linewidth=0.8, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
    above.plot([one.brightness for one in seen], ".", color=colours["normal"], markersize=3)
    above.set_ylabel("brightness")
    above.annotate("the lamp begins to age", (STEADY - 5, 0.97), ha="right", va="top",
                   xycoords=("data", "axes fraction"))  # fmt: skip
    for channel, style in zip(CHANNELS, ("-", "--", "-.", ":"), strict=True):
        evidence = [max(drift.evidence[channel], LEAST) for drift in drifts]
        below.plot(evidence, style, color=colours["ink"], label=channel.replace("_", " "))
    warning = 1 - math.log(EARLIER) / math.log(IMAGES_PER_FALSE_ALARM * len(CHANNELS))
    for name, level in (("warning", warning), ("drift", 1.0)):
        below.axhline(level, color=colours[STATES[name]], linewidth=1)
        below.text(2, level + 0.03, name, color=colours[STATES[name]])
    below.set(ylabel="evidence", xlabel="image", ylim=(LEAST, 1.5), xlim=(0, len(seen)))
    below.legend(frameon=False, loc="upper center", ncols=2)
    figure.tight_layout()
    return figure


def main() -> None:
    """Draw the chart."""
    generator = np.random.default_rng(0)
    monitor = DriftMonitor(DecisionMaker(calibrated(generator)))
    seen = list(line(generator))
    drifts = [monitor.add(prediction) for prediction in seen]
    print(next(str(drift) for drift in drifts if drift.state == "drift"))
    for theme in COLOURS:
        with styled(theme):
            figure = draw(seen, drifts, theme)
            figure.savefig(FOLDER / f"drift-{theme}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
