"""Colours of the pictures that matplotlib draws, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt

from docs.diagrams import THEMES
from moleflow_pl import Prediction

# beside the diagrams' colours: paper, and the three decisions
COLOURS = {
    "light": {
        **THEMES["light"], "paper": "#ffffff", "normal": "#0b5c92", "anomalous": "#a83e14",
        "unknown_product": "#5b3a8c",
    },
    "dark": {
        **THEMES["dark"], "paper": "#161b22", "normal": "#7cc4f5", "anomalous": "#ff9d6e",
        "unknown_product": "#c9a9ff",
    },
}  # fmt: skip


@contextmanager
def styled(theme: str) -> Iterator[None]:
    """Let matplotlib draw in the colours of a theme."""
    ink, paper = COLOURS[theme]["ink"], COLOURS[theme]["paper"]
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    papered = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    style: dict[Any, str] = {**dict.fromkeys(inked, ink), **dict.fromkeys(papered, paper)}
    with plt.rc_context(style):
        yield


def decision_text(prediction: Prediction) -> tuple[str, str]:
    """A decision in two lines, score and threshold first; and its label."""
    score, threshold = prediction.score, prediction.threshold
    assert threshold is not None
    assert prediction.label is not None
    sign = ">" if score > threshold else "<"
    label = prediction.label.replace("_", " ")
    return f"{score:.1f} {sign} {threshold:.1f}\n{label}", prediction.label
