"""The numbers of a run's report: `summary.json`, the CSV files, and the table on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moleflow_pl._internal.console import NamesTable
from moleflow_pl._internal.files import replacing, write_text
from moleflow_pl._internal.printable import write_cells
from moleflow_pl._internal.result_names import MATRIX_FILE, SCORES_FILE, SUMMARY_FILE
from moleflow_pl._internal.schema import stamp
from moleflow_pl.metrics.decisions import DECISION_COLUMNS
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
from moleflow_pl.report.decisions import matrix_rows, summarise_decisions
from moleflow_pl.report.good_images import summarise_calibration
from moleflow_pl.tasks.schedule import Task

TABLE_METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
NOTHING = "-"  # in place of a value
SCORE_COLUMNS = (
    "path", "task", "product", "defect", "gt_label", "routed_task", "router_distance", "score",
    "oracle_score", *DECISION_COLUMNS,
)  # fmt: skip


def comparable_evaluations(tasks: Sequence[Task]) -> list[dict[str, Any] | None]:
    """The evaluation of each task; None if its settings differ from the last task's."""
    last = tasks[-1].evaluation
    settings = None if last is None else last["settings"]
    evaluations = [task.evaluation for task in tasks]
    return [e if e and e["settings"] == settings else None for e in evaluations]


def task_matrix(tasks: Sequence[Task], metric: str, mode: str) -> list[list[float | None]]:
    """Metric of task j (column) after learning task i (row); None if it was not measured."""
    width = len(tasks)
    matrix: list[list[float | None]] = []
    for evaluation in comparable_evaluations(tasks):
        row = evaluation["metrics"][metric][mode] if evaluation else []
        matrix.append([*row, *[None] * (width - len(row))])
    return matrix


def summarise_metric(tasks: Sequence[Task], metric: str) -> dict[str, Any]:
    """The entry of one metric in `summary.json`."""
    routed, oracle = (task_matrix(tasks, metric, mode) for mode in ROUTING_MODES)
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
    """The content of `summary.json`.

    Args:
        tasks: The learned tasks; the last one has been evaluated.
        cost: `shared_parameters`, `parameters_per_task` and `peak_memory_mb`.
    """
    last = tasks[-1].evaluation
    assert last is not None
    metrics = {metric: summarise_metric(tasks, metric) for metric in METRICS}
    metrics["image_f1_max"]["threshold"] = last["f1_threshold"]
    rows = comparable_evaluations(tasks)
    zero_shot = [(row or {}).get("zero_shot") or {} for row in rows[:-1]]
    for metric in ("image_auroc", "pixel_auroc"):
        before = [values.get(metric) for values in zero_shot]
        metrics[metric]["forward_transfer"] = forward_transfer(before)
    return {
        **stamp(),
        "tasks": [task.name for task in tasks],
        "routing": {
            **last["routing"],
            "confusion": last["confusion"],
            "decisions_changed": decisions_changed(rows),
        },
        "decisions": summarise_decisions([task.name for task in tasks], rows),
        "calibration": summarise_calibration(tasks, last["good_images"]),
        "metrics": metrics,
        "settings": last["settings"],
        "pixel_error_bound": last["pixel_error_bound"],
        "drift": [task.drift for task in tasks],
        "cost": {**cost, "fit_seconds": [round(task.fit_seconds, 3) for task in tasks]},
    }


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file atomically; None becomes an empty field."""
    with replacing(path) as file:
        write_cells(file, [columns, *rows])


def write_report(folder: Path, summary: Mapping[str, Any], scores: Sequence[TaskScores]) -> None:
    """Write `summary.json`, `matrix.csv` and `scores.csv` into `folder`."""
    names = summary["tasks"]
    matrices = {"routed": "matrix", "oracle": "oracle_matrix"}
    write_rows(
        folder / MATRIX_FILE,
        ["metric", "routing_mode", "after", *names],
        [
            [metric, mode, name, *row]
            for metric in METRICS
            for mode, key in matrices.items()
            for name, row in zip(names, summary["metrics"][metric][key], strict=True)
        ]
        + list(matrix_rows(summary)),
    )
    write_rows(
        folder / SCORES_FILE,
        SCORE_COLUMNS,
        [
            [
                (row | {"task": names[of_task.task], "routed_task": names[row["routed_task"]]})[c]
                for c in SCORE_COLUMNS
            ]
            for of_task in scores
            for row in of_task.rows
        ],
    )
    # last: a summary shows that the other files are complete
    write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")


def summary_table(summary: Mapping[str, Any], planned: int | None = None) -> NamesTable:
    """The table on the screen: one row for each tested task, routed (in brackets: oracle).

    Args:
        summary: The content of `summary.json`.
        planned: Tasks of the run, where some of them may not be learned yet.
    """
    learned = len(summary["tasks"])
    when = "the last task" if planned in (None, learned) else f"task {learned} of {planned}"
    table = NamesTable(title=f"after {when}, routed (in brackets: oracle)")
    table.add_column("task", overflow="fold")
    for metric in TABLE_METRICS.values():
        table.add_column(metric, justify="right")
    table.add_column("routing\naccuracy", justify="right")
    table.add_column("on defective\nimages", justify="right")
    per_task, metrics = summary["routing"]["per_task"], summary["metrics"]
    routing: list[Row] = [per_task["accuracy"], per_task["accuracy_on_defects"]]
    for i, name in enumerate(summary["tasks"]):
        values = [
            format_pair(metrics[metric]["routed"][i], metrics[metric]["oracle"][i])
            for metric in TABLE_METRICS
        ]
        cells = [*values, *[format_value(column[i]) for column in routing]]
        if set(cells) != {NOTHING}:  # of a version that an update replaces, nothing is measured
            table.add_row(name, *cells)
    if len(summary["tasks"]) > 1 and table.row_count:
        means = [
            format_pair(metrics[metric]["average"], metrics[metric]["oracle_average"])
            for metric in TABLE_METRICS
        ]
        overall = [summary["routing"][key] for key in ("accuracy", "accuracy_on_defects")]
        table.add_section()
        table.add_row("all", *means, *map(format_value, overall))
    return table


def format_value(value: float | None) -> str:
    """Format a number for a table; a dash for None.

    Example:
        >>> format_value(0.98765), format_value(None)
        ('0.988', '-')
    """
    return NOTHING if value is None else f"{value:.3f}"


def format_pair(routed: float | None, oracle: float | None) -> str:
    """Format a routed value with the oracle value in brackets."""
    return NOTHING if routed is None else f"{format_value(routed)} ({format_value(oracle)})"
