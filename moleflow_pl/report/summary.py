"""The numbers and the files a run ends with."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from moleflow_pl._internal.files import replacing, write_text
from moleflow_pl._internal.schema import stamp
from moleflow_pl.metrics.image import Row
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_matrix import (
    average,
    backward_transfer,
    decisions_changed,
    forgetting,
    forward_transfer,
)
from moleflow_pl.metrics.task_scores import ROUTING_MODES, TaskScores
from moleflow_pl.tasks.schedule import Task

SHOWN = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
SCORE_COLUMNS = (
    "path", "task", "product", "defect", "gt_label", "routed_task", "router_distance", "score",
    "oracle_score",
)  # fmt: skip


def comparable(tasks: Sequence[Task]) -> list[dict[str, Any] | None]:
    """The tasks' evaluations that were made as the last one was; None for others."""
    last = tasks[-1].evaluation
    settings = None if last is None else last["settings"]
    evaluations = [task.evaluation for task in tasks]
    return [one if one and one["settings"] == settings else None for one in evaluations]


def task_matrix(tasks: Sequence[Task], metric: str, way: str) -> list[list[float | None]]:
    """Metric of task j (column) after learning task i (row); None where it was not measured."""
    width = len(tasks)
    matrix: list[list[float | None]] = []
    for evaluation in comparable(tasks):
        row = evaluation["metrics"][metric][way] if evaluation else []
        matrix.append([*row, *[None] * (width - len(row))])
    return matrix


def summarise_metric(tasks: Sequence[Task], metric: str) -> dict[str, Any]:
    """All that `summary.json` holds of one metric."""
    routed, oracle = (task_matrix(tasks, metric, way) for way in ROUTING_MODES)
    return {
        "routed": routed[-1],
        "oracle": oracle[-1],
        "matrix": routed,
        "oracle_matrix": oracle,
        "average": average(routed),
        "oracle_average": average(oracle),
        "forgetting": forgetting(routed),
        "oracle_forgetting": forgetting(oracle),
        "backward_transfer": backward_transfer(routed),
        "oracle_backward_transfer": backward_transfer(oracle),
    }


def summarise(tasks: Sequence[Task], cost: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `summary.json` for learned and evaluated tasks.

    Args:
        tasks: The learned tasks; the last one has been evaluated.
        cost: `shared_parameters`, `parameters_per_task` and `peak_memory_mb`.
    """
    last = tasks[-1].evaluation
    assert last is not None
    metrics = {metric: summarise_metric(tasks, metric) for metric in METRICS}
    metrics["image_f1_max"]["threshold"] = last["f1_threshold"]
    rows = comparable(tasks)
    ahead = [(row or {}).get("zero_shot") or {} for row in rows[:-1]]
    for metric in ("image_auroc", "pixel_auroc"):
        before = [one.get(metric) for one in ahead]
        metrics[metric]["forward_transfer"] = forward_transfer(before)
    return {
        **stamp(),
        "tasks": [task.name for task in tasks],
        "routing": {
            **last["routing"],
            "confusion": last["confusion"],
            "decisions_changed": decisions_changed(rows),
        },
        "metrics": metrics,
        "settings": last["settings"],
        "pixel_error_bound": last["pixel_error_bound"],
        "drift": [task.drift for task in tasks],
        "cost": {**cost, "fit_seconds": [round(task.fit_seconds, 3) for task in tasks]},
    }


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file whole or not at all; None becomes an empty field."""
    with replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_report(folder: Path, summary: Mapping[str, Any], scores: Sequence[TaskScores]) -> None:
    """Write `summary.json`, `matrix.csv` and `scores.csv` into `folder`."""
    names = summary["tasks"]
    matrices = {"routed": "matrix", "oracle": "oracle_matrix"}
    write_rows(
        folder / "matrix.csv",
        ["metric", "way", "after", *names],
        [
            [metric, way, name, *row]
            for metric in METRICS
            for way, key in matrices.items()
            for name, row in zip(names, summary["metrics"][metric][key], strict=True)
        ],
    )
    write_rows(
        folder / "scores.csv",
        SCORE_COLUMNS,
        [
            [
                (row | {"task": names[one.task], "routed_task": names[row["routed_task"]]})[column]
                for column in SCORE_COLUMNS
            ]
            for one in scores
            for row in one.rows
        ],
    )
    # last, so that a summary speaks of files that are there
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The table a person sees: a row a task, routed and with the own expert side by side."""
    table = Table(title="after the last task, product not told (in brackets: with its own expert)")
    table.add_column("task", overflow="fold")
    for metric in SHOWN.values():
        table.add_column(metric, justify="right")
    table.add_column("routed right", justify="right")
    table.add_column("defective ones", justify="right")
    per_task, metrics = summary["routing"]["per_task"], summary["metrics"]
    routing: list[Row] = [per_task["accuracy"], per_task["accuracy_on_defects"]]
    for i, name in enumerate(summary["tasks"]):
        values = [format_pair(metrics[m]["routed"][i], metrics[m]["oracle"][i]) for m in SHOWN]
        table.add_row(escape(name), *values, *[format_value(column[i]) for column in routing])
    if len(summary["tasks"]) > 1:
        means = [format_pair(metrics[m]["average"], metrics[m]["oracle_average"]) for m in SHOWN]
        overall = [summary["routing"][key] for key in ("accuracy", "accuracy_on_defects")]
        table.add_section()
        table.add_row("all", *means, *map(format_value, overall))
    return table


def format_value(value: float | None) -> str:
    """A number as a person reads it.

    Example:
        >>> format_value(0.98765), format_value(None)
        ('0.988', '-')
    """
    return "-" if value is None else f"{value:.3f}"


def format_pair(routed: float | None, oracle: float | None) -> str:
    """A routed value and that of the own expert behind it."""
    return "-" if routed is None else f"{format_value(routed)} ({format_value(oracle)})"
