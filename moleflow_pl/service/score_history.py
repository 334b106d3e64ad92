"""Draws the scores of a product's last inspections as SVG.

matplotlib writes inline styles, which the security policy of the page forbids, and no links from
points to inspections.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from moleflow_pl.service.database import Inspection

WIDTH, HEIGHT, MARGIN = 640, 200, 14
RADIUS = 4
HEADROOM = 2  # height above the threshold, relative to the height below it
WORDS = {
    "normal": "normal",
    "anomalous": "anomalous",
    "unknown_product": "unknown product",
    None: "no decision",
}


def score_history(inspections: Sequence[Inspection], here: int) -> Markup:
    """Draw scores from left to right, the oldest first, and the threshold of the last.

    Each decision has a shape and a colour; each point links to its inspection. Colours come from
    the style sheet.

    Args:
        inspections: Of one product, the oldest first; at least one.
        here: The `id` of the current one.
    """
    limit = inspections[-1].threshold
    scores = [inspection.score for inspection in inspections if inspection.score is not None]
    values = scores + ([] if limit is None else [limit])
    low, high = min(values, default=0.0), max(values, default=0.0)
    if limit is not None and low < limit:
        # a defect may score a hundred times as high as all else
        high = min(high, limit + HEADROOM * (limit - low))
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (min(value, high) - low) / span, 1)

    step = (WIDTH - 2 * MARGIN) / max(len(inspections) - 1, 1)
    # a score that is NaN is drawn at the top
    points = [
        point(
            inspection,
            round(MARGIN + i * step, 1),
            y(high if inspection.score is None else inspection.score),
            here,
        )
        for i, inspection in enumerate(inspections)
    ]
    line = Markup("")
    if limit is not None:
        line = Markup(
            '<line class="limit" x1="0" x2="{w}" y1="{y}" y2="{y}"/>'
            '<text x="4" y="{above}">threshold {limit}</text>'
        ).format(w=WIDTH, y=y(limit), above=max(y(limit) - 4, 12), limit=f"{limit:.4g}")
    label = f"the last {len(inspections)} scores, from {low:.4g} to {max(values, default=0):.4g}"
    return Markup('<svg class="history" viewBox="0 0 {w} {h}" role="img" aria-label="{l}">').format(
        w=WIDTH, h=HEIGHT, l=label
    ) + Markup("{}{}</svg>").format(line, Markup("").join(points))


def point(inspection: Inspection, x: float, y: float, here: int) -> Markup:
    """The mark of an inspection: a disc, a triangle or a square; larger for the one of `here`."""
    r = 2 * RADIUS if inspection.id == here else RADIUS
    if inspection.label == "anomalous":
        mark = f'<path d="M{x} {y - r}L{x + r} {y + r}H{x - r}Z"'
    elif inspection.label == "unknown_product":
        mark = f'<rect x="{x - r}" y="{y - r}" width="{2 * r}" height="{2 * r}"'
    else:
        mark = f'<circle cx="{x}" cy="{y}" r="{r}"'
    kind = f"point {inspection.label or 'none'}{' here' * (inspection.id == here)}"
    score = "no number" if inspection.score is None else f"{inspection.score:.4g}"
    title = escape(f"{score}, {WORDS[inspection.label]}")
    # safe: it consists of numbers and of our own words
    return Markup(
        f'<a href="/inspections/{inspection.id}">{mark} class="{kind}"><title>{title}</title>'
        f"</{mark[1:].partition(' ')[0]}></a>"
    )
