"""The task matrix: a row an evaluation, and what it says of forgetting and transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moleflow_pl.metrics.image import Row, mean_of
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_scores import ROUTING_MODES, TaskScores


def matrix_row(
    scores: Sequence[TaskScores], tasks: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept of an evaluation, as plain lists and numbers, for checkpoint and report.

    Args:
        scores: Of those of the first `tasks` tasks whose images are there.
        tasks: Number of tasks the model has learned.
        settings: What the numbers depend on besides the weights; rows compare only if it is equal.

    Returns:
        `metrics[name][way]`, `f1_threshold[way]`, `confusion`, `decisions` and `routing`, each a
        list over tasks with None for a task whose images are gone; `settings` and
        `pixel_error_bound`.
    """
    of_task = {one.task: one for one in scores if one.rows}
    metrics = {task: one.metrics() for task, one in of_task.items()}
    every = [row | {"own": one.task} for one in of_task.values() for row in one.rows]
    bounds = [
        m["pixel_error_bound"] for m in metrics.values() if m["pixel_error_bound"] is not None
    ]

    def overall(rows: Sequence[Mapping[str, Any]]) -> float | None:
        return mean_of([float(row["routed_task"] == row["own"]) for row in rows])

    def over_tasks(defects_only: bool) -> list[float | None]:
        return [
            of_task[task].accuracy(defects_only) if task in of_task else None
            for task in range(tasks)
        ]

    def by_way(part: str, name: str | None = None) -> dict[str, list[float | None]]:
        found = {t: m[part] if name is None else m[part][name] for t, m in metrics.items()}
        return {
            way: [found[t][way] if t in found else None for t in range(tasks)]
            for way in ROUTING_MODES
        }

    return {
        "settings": dict(settings),
        "metrics": {name: by_way("values", name) for name in METRICS},
        "f1_threshold": by_way("f1_threshold"),
        "pixel_error_bound": max(bounds, default=None),
        "confusion": [
            of_task[task].confusion(tasks) if task in of_task else [0] * tasks
            for task in range(tasks)
        ],
        "decisions": [
            of_task[task].decisions if task in of_task else None for task in range(tasks)
        ],
        "routing": {
            "accuracy": overall(every),
            "accuracy_on_defects": overall([row for row in every if row["gt_label"]]),
            "per_task": {
                "accuracy": over_tasks(defects_only=False),
                "accuracy_on_defects": over_tasks(defects_only=True),
            },
        },
    }


def zero_shot(scores: TaskScores) -> dict[str, float | None]:
    """Metrics of a task that is not learned yet, inspected by the experts there are."""
    return {metric: ways["routed"] for metric, ways in scores.metrics()["values"].items()}


def decisions_changed(rows: Sequence[Mapping[str, Any] | None]) -> list[int | None]:
    """How many images of earlier tasks are sent elsewhere since each task was added.

    Args:
        rows: A `matrix_row` for each task; None where there was no evaluation.

    Returns:
        A number a task; None for the first and where two evaluations in turn cannot be compared.

    Example:
        >>> decisions_changed([{"decisions": [[0, 0]]}, {"decisions": [[0, 1], [1]]}])
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
            for old, new in zip(before["decisions"], row["decisions"], strict=False)
            if old is not None and new is not None and len(old) == len(new)
        ]
        moved = sum(a != b for old, new in pairs for a, b in zip(old, new, strict=True))
        changed.append(moved if pairs else None)
    return changed


CHANCE = 0.5  # AUROC of a guess


def average(matrix: Sequence[Row]) -> float | None:
    """Mean over tasks after the last one, matrix[T-1]."""
    return mean_of(matrix[-1])


def forgetting(matrix: Sequence[Row]) -> float | None:
    """How far each earlier task has fallen from its best, on average.

    Mean over j < T-1 of max over i < T-1 of M[i][j], minus M[T-1][j].

    References: Chaudhry et al. 2018, arXiv:1801.10112, section 3.

    Example:
        >>> round(forgetting([[0.9, None], [0.8, 0.7]]), 6)
        0.1
    """
    *earlier, last = matrix
    falls: list[float | None] = []
    for task in range(len(matrix) - 1):
        before = [value for row in earlier if (value := row[task]) is not None]
        now = last[task]
        falls.append(max(before) - now if before and now is not None else None)
    return mean_of(falls)


def forward_transfer(before: Row) -> float | None:
    """What earlier tasks are worth to one that is not learned yet, on average, above chance.

    Mean of the AUROC of each later task just before it is learned, by the experts there are, minus
    one half. It has a meaning for an AUROC alone, whose chance is the same for all data.

    Args:
        before: AUROC of task j before it was learned; None where it was not measured.

    References: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, eq. 4.

    Example:
        >>> forward_transfer([None, 0.75])
        0.25
    """
    reached = mean_of(before)
    return None if reached is None else reached - CHANCE


def backward_transfer(matrix: Sequence[Row]) -> float | None:
    """What learning later tasks did to each earlier one, on average.

    Mean over j < T-1 of M[T-1][j] - M[j][j].

    References: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, eq. 3.

    Example:
        >>> round(backward_transfer([[0.9, None], [0.95, 0.7]]), 6)
        0.05
    """
    changes: list[float | None] = []
    for task in range(len(matrix) - 1):
        now, then = matrix[-1][task], matrix[task][task]
        changes.append(None if now is None or then is None else now - then)
    return mean_of(changes)
