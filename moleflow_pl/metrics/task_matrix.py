"""The task matrix: one row for each evaluation, and forgetting and transfer computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from moleflow_pl.metrics.decisions import TARGET_RECALL, count_decisions
from moleflow_pl.metrics.good_images import GoodImages
from moleflow_pl.metrics.image import Row, mean_of
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_scores import ROUTING_MODES, TaskScores
from moleflow_pl.tasks.calibration import Calibration


def matrix_row(
    scores: Sequence[TaskScores],
    tasks: int,
    settings: Mapping[str, Any],
    calibrations: Sequence[Calibration | None] = (),
    target_recall: float = TARGET_RECALL,
    good_images: Mapping[int, GoodImages] | None = None,
) -> dict[str, Any]:
    """One evaluation as plain lists and numbers, for checkpoint and report.

    Args:
        scores: Scores of the first `tasks` tasks, except those whose images are gone.
        tasks: Number of tasks the model has learned.
        settings: What the numbers depend on besides the weights; rows are comparable only with
            equal settings.
        calibrations: Calibration of each task, if it has one.
        target_recall: Recall whose false-alarm rate to find.
        good_images: Statistics of tasks without test images.

    Returns:
        `metrics[name][mode]` and `f1_threshold[mode]` for each routing mode; `confusion`,
        `routed_tasks` and `decisions` by product, lists over tasks with None for a task without
        test images; `good_images`, with None for a task with test images; `routing`, `settings` and
        `pixel_error_bound`.
    """
    by_task = {task_scores.task: task_scores for task_scores in scores if task_scores.rows}
    of_tasks = [by_task.get(task) for task in range(tasks)]
    return {
        "settings": dict(settings),
        **metrics_by_mode(of_tasks),
        "confusion": [of_task.confusion(tasks) if of_task else [0] * tasks for of_task in of_tasks],
        "routed_tasks": [of_task.routed_tasks if of_task else None for of_task in of_tasks],
        "decisions": [
            decisions_by_product(of_task, calibration, target_recall) if of_task else None
            for of_task, calibration in zip_longest(of_tasks, calibrations[:tasks])
        ],
        "good_images": [(good_images or {}).get(task) for task in range(tasks)],
        "routing": routing_accuracy(by_task, tasks),
    }


def metrics_by_mode(of_tasks: Sequence[TaskScores | None]) -> dict[str, Any]:
    """The metrics of all tasks, their thresholds of the best F1, and the error of pixel metrics."""
    computed = [of_task.metrics() if of_task else None for of_task in of_tasks]
    bounds = [of_task["pixel_error_bound"] for of_task in computed if of_task]
    return {
        "metrics": {
            name: by_mode([of_task["values"][name] if of_task else None for of_task in computed])
            for name in METRICS
        },
        "f1_threshold": by_mode(
            [of_task["f1_threshold"] if of_task else None for of_task in computed]
        ),
        "pixel_error_bound": max([bound for bound in bounds if bound is not None], default=None),
    }


def by_mode(values: Sequence[Mapping[str, float | None] | None]) -> dict[str, list[float | None]]:
    """Values of each task by routing mode, as one list over tasks for each mode."""
    return {mode: [value[mode] if value else None for value in values] for mode in ROUTING_MODES}


def decisions_by_product(
    scores: TaskScores, calibration: Calibration | None, target_recall: float
) -> dict[str, Any]:
    """The counts of decisions about the test images of each product of a task."""
    return {
        product: count_decisions(rows, calibration, target_recall)
        for product, rows in scores.of_products().items()
    }


def routing_accuracy(by_task: Mapping[int, TaskScores], tasks: int) -> dict[str, Any]:
    """Routing accuracy of all images and of the defective ones, overall and for each task.

    Args:
        by_task: Scores by task; a task without test images is missing here and gets None.
        tasks: Number of tasks the model has learned.
    """
    rows = [(row, task) for task, scores in by_task.items() for row in scores.rows]

    def overall(defects_only: bool) -> float | None:
        return mean_of(
            [
                float(row["routed_task"] == task)
                for row, task in rows
                if row["gt_label"] or not defects_only
            ]
        )

    def per_task(defects_only: bool) -> list[float | None]:
        return [
            by_task[task].accuracy(defects_only) if task in by_task else None
            for task in range(tasks)
        ]

    return {
        "accuracy": overall(defects_only=False),
        "accuracy_on_defects": overall(defects_only=True),
        "per_task": {
            "accuracy": per_task(defects_only=False),
            "accuracy_on_defects": per_task(defects_only=True),
        },
    }


def zero_shot(scores: TaskScores) -> dict[str, float | None]:
    """Metrics of a task before it is learned, with the experts of the tasks before it."""
    return {metric: modes["routed"] for metric, modes in scores.metrics()["values"].items()}


def decisions_changed(rows: Sequence[Mapping[str, Any] | None]) -> list[int | None]:
    """Number of images of earlier tasks that were routed elsewhere after each task was added.

    Args:
        rows: A `matrix_row` for each task; None where there was no evaluation.

    Returns:
        One number for each task; None for the first, and if a row is not comparable with the one
        before it.

    Example:
        >>> decisions_changed([{"routed_tasks": [[0, 0]]}, {"routed_tasks": [[0, 1], [1]]}])
        [None, 1]
    """
    changed: list[int | None] = []
    for i, row in enumerate(rows):
        before = rows[i - 1] if i else None
        if row is None or before is None:
            changed.append(None)
            continue
        pairs = [
            (old, new)
            for old, new in zip(before["routed_tasks"], row["routed_tasks"], strict=False)
            if old is not None and new is not None and len(old) == len(new)
        ]
        moved = sum(a != b for old, new in pairs for a, b in zip(old, new, strict=True))
        changed.append(moved if pairs else None)
    return changed


CHANCE = 0.5  # AUROC of guessing


def average(matrix: Sequence[Row]) -> float | None:
    """Mean over tasks after the last one, matrix[T-1]."""
    return mean_of(matrix[-1])


def forgetting(matrix: Sequence[Row]) -> float | None:
    """Mean drop of each earlier task from its best value.

    Mean over j < T-1 of max over i < T-1 of `M[i][j]`, minus `M[T-1][j]`.

    References: Chaudhry et al. 2018, arXiv:1801.10112, section 3.

    Example:
        >>> round(forgetting([[0.9, None], [0.8, 0.7]]), 6)
        0.1
    """
    *earlier, last = matrix
    drops: list[float | None] = []
    for task in range(len(matrix) - 1):
        before = [value for row in earlier if (value := row[task]) is not None]
        now = last[task]
        drops.append(max(before) - now if before and now is not None else None)
    return mean_of(drops)


def forward_transfer(before: Row) -> float | None:
    """Mean AUROC of tasks that are not learned yet, above chance.

    Mean of the AUROC of each later task just before it is learned, by the experts of the tasks
    before it, minus one half. Only an AUROC has the same chance level for all data.

    Args:
        before: AUROC of task j before it was learned; None if it was not measured.

    References: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, eq. 4.

    Example:
        >>> forward_transfer([None, 0.75])
        0.25
    """
    mean = mean_of(before)
    return None if mean is None else mean - CHANCE


def backward_transfer(matrix: Sequence[Row]) -> float | None:
    """Mean change of each earlier task by learning the later ones.

    Mean over j < T-1 of `M[T-1][j] - M[j][j]`.

    References: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, eq. 3.

    Example:
        >>> round(backward_transfer([[0.9, None], [0.95, 0.7]]), 6)
        0.05
    """
    changes: list[float | None] = []
    for task in range(len(matrix) - 1):
        now, before = matrix[-1][task], matrix[task][task]
        changes.append(None if now is None or before is None else now - before)
    return mean_of(changes)
