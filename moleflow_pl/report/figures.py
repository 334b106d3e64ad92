"""Pictures of a report as data URIs, so that its page needs no other files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from moleflow_pl.inference.heatmap import HEAT_MAP
from moleflow_pl.metrics.image import roc

# Okabe & Ito's palette: distinct for the colour-blind, and in grey by lightness
BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#555555"
MATRIX_MAP = colormaps["cividis"]
SIZE = (4.2, 3.1)
FONT = 9
NO_LIMITS: Mapping[str, float | None] = {}
RATE_TICKS = (0.0001, 0.001, 0.01, 0.1, 1.0)
LOWEST_SHOWN = RATE_TICKS[0]


def data_uri(content: bytes, kind: str) -> str:
    """Encode the bytes of a picture as a data URI.

    Example:
        >>> data_uri(b"x", "png")
        'data:image/png;base64,eA=='
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def svg_uri(figure: Figure) -> str:
    """Render a figure as SVG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "moleflow"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "svg+xml")


def roc_figure(curves: Mapping[str, Tensor], labels: Tensor) -> str:
    """ROC curves of scores (N,) by name, against labels (N,)."""
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    styles = ((BLUE, "-"), (ORANGE, "--"))
    for (name, scores), (colour, line) in zip(curves.items(), styles, strict=False):
        axis.plot(*roc(scores, labels), label=name, linewidth=2, color=colour, linestyle=line)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axis.set_xlabel("false-positive rate", fontsize=FONT)
    axis.set_ylabel("true-positive rate", fontsize=FONT)
    axis.legend(loc="lower right", frameon=False, fontsize=FONT)
    return svg_uri(figure)


def histogram_figure(
    groups: Mapping[str, Sequence[float]],
    label: str,
    limits: Mapping[str, float | None] = NO_LIMITS,
) -> str:
    """Histograms of one or two groups of numbers, with up to two named limits."""
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    finite = {name: np.asarray(v)[np.isfinite(v)] for name, v in groups.items()}
    marked = {name: value for name, value in limits.items() if value is not None}
    combined = np.concatenate([*finite.values(), [*marked.values()]])
    bins = np.linspace(combined.min(), combined.max() + 1e-6, 41).tolist()
    styles = ((BLUE, ""), (ORANGE, "//"))
    for (name, values), (colour, hatch) in zip(finite.items(), styles, strict=False):
        if len(values):
            axis.hist(
                values, bins, label=f"{name} ({len(values)})", color=colour, alpha=0.65,
                hatch=hatch, edgecolor="white", linewidth=0.3,
            )  # fmt: skip
    for (name, value), line in zip(marked.items(), ("-", ":"), strict=False):
        axis.axvline(value, color="black", linestyle=line, linewidth=1.4, label=name)
    axis.set_xlabel(label, fontsize=FONT)
    axis.set_ylabel("images", fontsize=FONT)
    legend_above(axis)
    return svg_uri(figure)


def legend_above(axis: Axes) -> None:
    """Put the legend above the axes: matplotlib's search for a place inside is slow, and warns."""
    axis.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, columnspacing=1,
        handlelength=1.4, frameon=False, fontsize=FONT,
    )  # fmt: skip


def rates_figure(
    shares: Mapping[str, Sequence[float]], rates: Sequence[float], rate: float, images: int
) -> str:
    """Shares of test images by target false-alarm rate.

    Args:
        shares: One or two curves by name, missed defects first.
        rates: Their target rates.
        rate: The present target rate.
        images: Number of calibration images; rates that need more of them are shaded.
    """
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    styles = {"missed defects": (ORANGE, "-"), "false alarms": (BLUE, "--")}
    for name, values in shares.items():
        colour, line = styles[name]
        percents = [100 * value for value in values]
        axis.plot(rates, percents, line, color=colour, linewidth=2, label=name)
    axis.axvline(rate, color="black", linewidth=1.4, label="target")
    axis.set(xscale="log", xlim=(LOWEST_SHOWN, 1), ylim=(-2, 102))
    if images and 1 / (images + 1) > LOWEST_SHOWN:
        axis.axvspan(LOWEST_SHOWN, 1 / (images + 1), color=GREY, alpha=0.12, linewidth=0,
                     label="extrapolated")  # fmt: skip
    axis.set_xticks(RATE_TICKS, [f"{100 * tick:g} %" for tick in RATE_TICKS])
    axis.set_xlabel("target false-alarm rate", fontsize=FONT)
    axis.set_ylabel("% of test images", fontsize=FONT)
    legend_above(axis)
    return svg_uri(figure)


def cell_style(value: float | None, low: float = 0.0, high: float = 1.0) -> str:
    """CSS colours of a table cell, readable on every shade; empty if there is no value.

    Example:
        >>> cell_style(1.0)
        'background:#fee838;color:#000'
    """
    if value is None:
        return ""
    share = (value - low) / (high - low) if high > low else 1.0
    shade = MATRIX_MAP(min(max(share, 0.0), 1.0))
    red, green, blue, _ = shade
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return f"background:{to_hex(shade)};color:{'#000' if luminance > 0.4 else '#fff'}"


def scale_gradient() -> str:
    """The heatmap's colours from left to right, as a CSS gradient."""
    return (
        f"linear-gradient(90deg,{','.join(to_hex(colormaps[HEAT_MAP](i / 8)) for i in range(9))})"
    )


def jpeg_uri(image: Image.Image) -> str:
    """Encode a small picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return data_uri(buffer.getvalue(), "jpeg")


def mask_picture(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draw a mask (H, W) in white on black, at a picture's size (width, height)."""
    pixels = mask.to(torch.uint8).mul(255).numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
