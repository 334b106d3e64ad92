"""`report.html`: one file with all a run says, its pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_scores import TaskScores
from moleflow_pl.report.figures import cell_style, histogram_figure, roc_figure, scale_gradient
from moleflow_pl.report.gallery import build_gallery
from moleflow_pl.report.summary import format_value

TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1, best",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO",
}
MATRIX_FLOOR = 0.5  # where a matrix' colours begin: chance, for the AUROC


def environment() -> Environment:
    """Templates of the package; whatever comes from a name or a path is escaped."""
    made = Environment(
        loader=PackageLoader("moleflow_pl.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["format_value"] = format_value
    made.globals["cell_style"] = cell_style
    return made


def score_figures(
    scores: TaskScores, threshold: float | None, others: Sequence[TaskScores]
) -> dict[str, str]:
    """ROC, score and distance pictures of one task, by what they show.

    Args:
        scores: Scores of the task's test images.
        threshold: Score that the histogram marks.
        others: Scores of the other tasks' images, which are foreign to this one.
    """
    rows = scores.rows
    labels = torch.tensor([row["gt_label"] for row in rows])
    pictures = {}
    if labels.min() != labels.max():
        curves = {"routed": "score", "own expert": "oracle_score"}
        made = {n: torch.tensor([row[c] for row in rows]).double() for n, c in curves.items()}
        pictures["ROC"] = roc_figure(made, labels)
    groups = {
        name: [row["score"] for row in rows if row["gt_label"] == label]
        for label, name in ((0, "good"), (1, "defective"))
    }
    pictures["scores"] = histogram_figure(groups, "image score", threshold)
    distances = {
        "its own images": [row["distances"][scores.task] for row in rows],
        "foreign images": [row["distances"][scores.task] for o in others for row in o.rows],
    }
    pictures["distances to this prototype"] = histogram_figure(distances, "router distance")
    return pictures


def render_page(
    summary: Mapping[str, Any], scores: Sequence[TaskScores], about: Mapping[str, Any]
) -> str:
    """The page.

    Args:
        summary: What `summarise` gives.
        scores: Scores of the tasks whose images are there.
        about: `versions`, `hardware` and `facts`, each a dict of strings, and `config`, YAML.
    """
    names = summary["tasks"]
    thresholds = summary["metrics"]["image_f1_max"]["threshold"]["routed"]
    measured = [
        metric
        for metric in METRICS
        if any(v is not None for row in summary["metrics"][metric]["matrix"] for v in row)
    ]
    return (
        environment()
        .get_template("report.html")
        .render(
            summary=summary,
            names=names,
            titles=TITLES,
            measured=measured,
            floor=MATRIX_FLOOR,
            figures={
                names[one.task]: score_figures(
                    one, thresholds[one.task], [o for o in scores if o is not one]
                )
                for one in scores
            },
            gallery=[product_page for one in scores for product_page in build_gallery(one, names)],
            gradient=scale_gradient(),
            about=about,
        )
    )
