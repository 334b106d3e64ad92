"""`report.html`: the report of a run in one file, including its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from moleflow_pl._internal.printable import printable_lines
from moleflow_pl.metrics.decisions import shares_by_rate
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_scores import TaskScores
from moleflow_pl.report.decisions import (
    SHARES,
    format_count,
    format_rate,
    format_share,
    target_sentence,
)
from moleflow_pl.report.figures import (
    cell_style,
    histogram_figure,
    rates_figure,
    roc_figure,
    scale_gradient,
)
from moleflow_pl.report.gallery import SuspectImage, build_gallery, suspect_examples
from moleflow_pl.report.good_images import CHANGED, is_tested
from moleflow_pl.report.not_evaluated import in_lines
from moleflow_pl.report.summary import format_value
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.thresholds import RATES

TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "best F1 (by the test labels)",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO",
}
MATRIX_FLOOR = 0.5  # value at which a matrix' colours start: the AUROC of chance


def environment() -> Environment:
    """Jinja environment of the templates; names and paths are escaped to plain text."""
    templates = Environment(
        loader=PackageLoader("moleflow_pl.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        # already escaped text has another class
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (format_value, format_count, format_rate, format_share)
    templates.filters |= {function.__name__: function for function in filters}
    templates.globals |= {
        "target_sentence": target_sentence,
        "share_titles": SHARES,
        "CHANGED": CHANGED,
    }
    templates.globals["cell_style"] = cell_style
    return templates


def score_figures(
    scores: TaskScores,
    limits: Mapping[str, float | None],
    others: Sequence[TaskScores],
    products: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """Figures of one task by title: shares by target rate, ROC curves and histograms.

    Args:
        scores: Scores of the task's test images.
        limits: Scores to mark in the histogram, by name.
        others: Scores of the other tasks' images.
        products: Decisions about each of its products, see `summarise_decisions`.
    """
    rows = scores.rows
    labels = torch.tensor([row["gt_label"] for row in rows])
    pictures = {}
    for product, of_product in scores.of_products().items():
        name = f" of {product}" if len(products) > 1 else ""
        decided, shares = products[product], shares_by_rate(of_product)
        if shares and decided["false_alarm_rate"] is not None:
            pictures[f"missed defects by false-alarm rate{name}"] = rates_figure(
                shares, RATES, decided["false_alarm_rate"], decided["calibration_images"]
            )
    if labels.min() != labels.max():
        columns = {"routed": "score", "oracle": "oracle_score"}
        curves = {
            mode: torch.tensor([row[column] for row in rows]).double()
            for mode, column in columns.items()
        }
        pictures["ROC"] = roc_figure(curves, labels)
    groups = {
        name: [row["score"] for row in rows if row["gt_label"] == label]
        for label, name in ((0, "good"), (1, "defective"))
    }
    pictures["scores"] = histogram_figure(groups, "image score", limits)
    distances = {
        "this task": [row["distances"][scores.task] for row in rows],
        "other tasks": [row["distances"][scores.task] for o in others for row in o.rows],
    }
    pictures["distances to this task's prototype"] = histogram_figure(distances, "router distance")
    return pictures


def with_blanks(confusion: Sequence[Sequence[int]]) -> list[Sequence[int | None]]:
    """Counts by task with None in the rows of tasks without test images.

    Example:
        >>> with_blanks([[0, 0], [0, 3]])
        [[None, None], [0, 3]]
    """
    return [row if any(row) else [None] * len(row) for row in confusion]


def calibration_figure(calibration: Calibration) -> str:
    """The scores of a task's calibration images, with its threshold."""
    limits = {"threshold": calibration.limits().score}
    return histogram_figure({"calibration images": calibration.scores}, "image score", limits)


def render_page(
    summary: Mapping[str, Any],
    scores: Sequence[TaskScores],
    about: Mapping[str, Any],
    calibrations: Mapping[str, Calibration],
    suspects: Sequence[SuspectImage] = (),
) -> str:
    """Render `report.html`.

    Args:
        summary: The result of `summarise`.
        scores: Scores of the tasks, except those whose images are gone.
        about: `versions`, `hardware`, `facts`, `next` and `left_out` (see `not_evaluated`), each a
            dict of strings, and `config`, YAML.
        calibrations: Calibrations of tasks, by name.
        suspects: Good images with the highest scores.
    """
    names = summary["tasks"]
    best = summary["metrics"]["image_f1_max"]["threshold"]["routed"]
    measured = [
        metric
        for metric in METRICS
        if any(v is not None for row in summary["metrics"][metric]["matrix"] for v in row)
    ]
    figures = {}
    for of_task in scores:
        others = [other for other in scores if other is not of_task]
        name = names[of_task.task]
        entries = summary["decisions"]["products"]
        products = {entry["product"]: entry for entry in entries if entry["task"] == name}
        limits = {
            "threshold": next(iter(products.values()))["threshold"],
            "best F1 (by the test labels)": best[of_task.task],
        }
        figures[name] = score_figures(of_task, limits, others, products)
    good_images = [entry for entry in summary["calibration"] if entry["good_images"] is not None]
    for name in (entry["task"] for entry in good_images if entry["task"] in calibrations):
        figures[name] = {"calibration images": calibration_figure(calibrations[name])}
    template = environment().get_template("report.html")
    return template.render(
        summary=summary,
        names=names,
        titles=TITLES,
        measured=measured,
        floor=MATRIX_FLOOR,
        figures=figures,
        tested=is_tested(summary),
        confusion=with_blanks(summary["routing"]["confusion"]),
        left_out=in_lines(about["left_out"]),
        good_images=good_images,
        suspects=suspect_examples(suspects),
        any_looks_defective=any(image.looks_defective for image in suspects),
        gallery=[page for of_task in scores for page in build_gallery(of_task, names)],
        gradient=scale_gradient(),
        about=about,
    )
