"""Pictures of a report as data URIs, so that its page fetches nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps, rc_context
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
    groups: Mapping[str, Sequence[float]], label: str, threshold: float | None = None
) -> str:
    """Histograms of one or two groups of numbers, with a threshold if there is one."""
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    finite = {name: np.asarray(v)[np.isfinite(v)] for name, v in groups.items()}
    combined = np.concatenate([*finite.values(), [] if threshold is None else [threshold]])
    bins = np.linspace(combined.min(), combined.max() + 1e-6, 41).tolist()
    styles = ((BLUE, ""), (ORANGE, "//"))
    for (name, values), (colour, hatch) in zip(finite.items(), styles, strict=False):
        if len(values):
            axis.hist(
                values, bins, label=f"{name} ({len(values)})", color=colour, alpha=0.65,
                hatch=hatch, edgecolor="white", linewidth=0.3,
            )  # fmt: skip
    if threshold is not None:
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label="best F1")
    axis.set_xlabel(label, fontsize=FONT)
    axis.set_ylabel("images", fontsize=FONT)
    # above the axes: matplotlib's search for a free place inside is slow and warns about it
    axis.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, columnspacing=1,
        handlelength=1.4, frameon=False, fontsize=FONT,
    )  # fmt: skip
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
    return f"linear-gradient(90deg,{','.join(to_hex(HEAT_MAP(i / 8)) for i in range(9))})"


def jpeg_uri(image: Image.Image) -> str:
    """Encode a small picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return data_uri(buffer.getvalue(), "jpeg")


def mask_picture(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """Draw a mask (H, W) in white on black, at a picture's size (width, height)."""
    pixels = mask.to(torch.uint8).mul(255).numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
