"""Scores of the test images of every task, gathered into the numbers of one matrix row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl.metrics import COMPUTED, IMAGE_METRICS, METRICS, mean_of
from moleflow_pl.scoring import anomaly_map

WAYS = ("routed", "oracle")


@dataclass(frozen=True)
class MapOptions:
    """How a pixel metric sees a score map.

    Attributes:
        size: Side of the square map that patch scores are brought to, bilinearly.
        sigma: Standard deviation of the Gaussian blur on it; 0 for none.
    """

    size: int = 256
    sigma: float = 4.0


@dataclass
class TaskScores:
    """Scores of one task's test images, as they come in.

    Attributes:
        task: Number of the task.
        options: How maps are made.
        rows: One entry an image: what it is, where it was sent, its scores.
    """

    task: int
    options: MapOptions
    rows: list[dict[str, Any]] = field(default_factory=list)
    _maps: dict[str, list[Tensor]] = field(default_factory=lambda: {way: [] for way in WAYS})
    _masks: list[Tensor] = field(default_factory=list)

    def update(self, batch: Mapping[str, Any], output: Mapping[str, Tensor]) -> None:
        """Take in a test batch and what `MoLEFlow.test_step` said of it."""
        columns = {
            "path": batch["path"],
            "product": batch["product"],
            "defect": batch["defect"],
            "gt_label": batch["gt_label"].tolist(),
            "routed_task": output["routed_task"].tolist(),
            "router_distance": output["router_distance"].tolist(),
            "score": output["routed_score"].tolist(),
            "oracle_score": output["oracle_score"].tolist(),
        }
        for values in zip(*columns.values(), strict=True):
            self.rows.append(dict(zip(columns, values, strict=True)))
        known = [i for i, mask in enumerate(batch["gt_mask"]) if mask is not None]
        if not known:
            return
        size = (self.options.size, self.options.size)
        for i in known:
            mask = batch["gt_mask"][i][None, None].float().cpu()
            self._masks.append(F.interpolate(mask, size=size, mode="nearest")[0, 0].bool())
        for way in WAYS:
            maps = anomaly_map(output[f"{way}_map"][known], size, self.options.sigma)
            self._maps[way].append(maps.cpu())

    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Every metric, routed and with the own expert; None where it cannot be had."""
        labels = torch.tensor([row["gt_label"] for row in self.rows])
        names = {"routed": "score", "oracle": "oracle_score"}
        result: dict[str, dict[str, float | None]] = {}
        for metric in METRICS:
            compute = COMPUTED.get(metric)
            result[metric] = dict.fromkeys(WAYS)
            if compute is None or not self.rows:
                continue
            for way in WAYS:
                if metric in IMAGE_METRICS:
                    # doubles hold what the model said, to the bit
                    scores = torch.tensor([row[names[way]] for row in self.rows]).double()
                    result[metric][way] = compute(scores, labels)
                elif self._masks:
                    maps, masks = torch.cat(self._maps[way]), torch.stack(self._masks)
                    result[metric][way] = compute(maps, masks)
        return result

    def confusion(self, tasks: int) -> list[int]:
        """How many images were sent to each of `tasks` tasks."""
        chosen = torch.tensor([row["routed_task"] for row in self.rows], dtype=torch.long)
        return torch.bincount(chosen, minlength=tasks).tolist()

    def accuracy(self, defects_only: bool = False) -> float | None:
        """Share of images, or of defective ones, sent to their own task."""
        return mean_of(
            [
                float(row["routed_task"] == self.task)
                for row in self.rows
                if row["gt_label"] or not defects_only
            ]
        )


def matrix_row(scores: Sequence[TaskScores], tasks: int) -> dict[str, Any]:
    """What is kept of an evaluation, as plain lists and numbers, for checkpoint and report.

    Args:
        scores: Of those of the first `tasks` tasks whose images are there.
        tasks: Number of tasks the model has learned.

    Returns:
        `metrics[name][way]`, `confusion`, and `routing`, each a list over tasks with None for a
        task whose images are gone.
    """
    of_task = {one.task: one for one in scores if one.rows}
    metrics = {task: one.metrics() for task, one in of_task.items()}
    every = [row | {"own": one.task} for one in of_task.values() for row in one.rows]

    def overall(rows: Sequence[Mapping[str, Any]]) -> float | None:
        return mean_of([float(row["routed_task"] == row["own"]) for row in rows])

    def over_tasks(defects_only: bool) -> list[float | None]:
        return [
            of_task[task].accuracy(defects_only) if task in of_task else None
            for task in range(tasks)
        ]

    return {
        "metrics": {
            name: {
                way: [metrics[t][name][way] if t in metrics else None for t in range(tasks)]
                for way in WAYS
            }
            for name in METRICS
        },
        "confusion": [
            of_task[task].confusion(tasks) if task in of_task else [0] * tasks
            for task in range(tasks)
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
