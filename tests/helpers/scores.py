"""Scores of test images, and tasks that were evaluated."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from moleflow_pl._internal.console import NamesTable
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.metrics.good_images import GoodImages, Halves
from moleflow_pl.metrics.task_matrix import matrix_row
from moleflow_pl.metrics.task_scores import EvaluationOptions, TaskScores
from moleflow_pl.report.summary import summarise
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import Task


def decided(scores: list[float], threshold: float, unknown: Sequence[int] = ()) -> list[dict]:
    """Decisions by a threshold; the rate that flags a score falls from 1 as the score rises."""
    labels = ["anomalous" if score > threshold else "normal" for score in scores]
    labels = ["unknown_product" if i in unknown else label for i, label in enumerate(labels)]
    return [
        {
            "threshold": threshold,
            "label": label,
            "normalised_score": 1 / (1 + math.exp(threshold - score)),
            "novelty_ratio": 2.0 if label == "unknown_product" else 0.5,
            "alarm_rate": min(10 ** -(score - threshold) / 100, 1.0),
        }
        for score, label in zip(scores, labels, strict=True)
    ]


def scored(
    task: int,
    labels: list[int],
    routed: list[int],
    scores: list[float],
    masks: bool | Sequence[torch.Tensor] = True,
    decisions: Sequence[dict] = (),
) -> TaskScores:
    """Scores of images of 8 x 8 patches; by default, masks are the left half of defective ones."""
    count = len(labels)
    maps = torch.rand(count, 8, 8) + torch.tensor(scores)[:, None, None]
    mask = [torch.zeros(16, 32, dtype=torch.uint8) for _ in labels]
    for one, label in zip(mask, labels, strict=True):
        one[:, :16] = label
    result = TaskScores(task, EvaluationOptions(map_size=32, blur_sigma=0.0))
    result.update(
        {
            "path": [f"{task}/{i}.png" for i in range(count)],
            "product": ["ab"[task]] * count,
            "defect": ["good" if not label else "hole" for label in labels],
            "gt_label": torch.tensor(labels),
            "gt_mask": (mask if masks else [None] * count) if isinstance(masks, bool) else masks,
        },
        {
            "routed_task": torch.tensor(routed),
            "router_distance": torch.ones(count),
            "distances": torch.ones(count, 2),
            "routed_score": torch.tensor(scores),
            "oracle_score": torch.tensor(scores) + torch.tensor(labels),
            "routed_map": maps,
            "oracle_map": maps,
        },
        decisions,
    )
    return result


def scored_at_1024(count: int) -> TaskScores:
    """Scores of images of 37 x 37 patches with masks of 1024 x 1024, by two different ways."""
    result = TaskScores(0, EvaluationOptions(map_size=1024))
    for i in range(count):
        mask = torch.zeros(1024, 1024, dtype=torch.uint8)
        mask[100:300, 200:260] = i % 2
        maps = torch.randn(1, 37, 37)
        maps[:, 4:11, 7:10] += i % 2  # the defect, roughly
        batch = {name: [str(i)] for name in ("path", "product", "defect")}
        batch |= {"gt_label": torch.tensor([i % 2]), "gt_mask": [mask]}
        one = torch.ones(1)
        output = {
            "routed_task": one.long(), "router_distance": one, "distances": one[:, None],
            "routed_score": one, "oracle_score": one,
            "routed_map": maps, "oracle_map": maps + 1,
        }  # fmt: skip
        result.update(batch, output)
    return result


OPTIONS = EvaluationOptions(map_size=32, blur_sigma=0.0)


def scores_on(
    root: Path,
    products: list[str],
    threshold: float | None = None,
    options: EvaluationOptions | None = None,
) -> TaskScores:
    """Scores of the test images of products; the map of a defective one is high in its square."""
    records = [record for product in products for record in MVTecLayout(root).test(product)]
    dataset = ImageDataset(records, 0, (48, 48), masks=True)
    batch = dataset.collate([dataset[i] for i in range(len(records))])
    labels = batch["gt_label"]
    maps = torch.zeros(len(records), 12, 12)
    maps[:, 3:6, 4:7] = (
        labels[:, None, None].float() * torch.arange(1.0, len(records) + 1)[:, None, None]
    )
    output = {
        "routed_task": torch.where(labels.bool(), 1, 0),
        "router_distance": torch.ones(len(records)),
        "distances": torch.ones(len(records), 2),
        "routed_score": maps.amax((1, 2)),
        "oracle_score": maps.amax((1, 2)),
        "routed_map": maps,
        "oracle_map": maps,
    }
    scores = TaskScores(0, options or replace(OPTIONS, map_size=48))
    found = maps.amax((1, 2)).tolist()
    scores.update(batch, output, [] if threshold is None else decided(found, threshold))
    return scores


COST = {"shared_parameters": 10, "parameters_per_task": [1, 2], "peak_memory_mb": 3.0}
SETTINGS = {
    **asdict(OPTIONS),
    "router": "pooled",
    "image_score": "quantile",
    "image_quantile": 0.99,
}


CALIBRATED = Calibration(*[[1.0, 2.0, 2.5]] * 4)
THRESHOLD = CALIBRATED.limits().score


def learned_tasks() -> list[Task]:
    """`a` and `b`; `a` has a threshold, which one of its two defects exceeds."""
    numbers = [1.0, 2.0, THRESHOLD + 1]
    first = scored(0, [0, 1, 1], [0, 0, 0], numbers, decisions=decided(numbers, THRESHOLD))
    second = scored(1, [0, 1], [1, 1], [2.0, 1.0], masks=False)
    tasks = [
        Task(["a"], 2, 2, 1.5, calibration=replace(CALIBRATED)),
        Task(["b"], 2, 2, 2.5),
    ]
    calibrations = [task.calibration for task in tasks]
    tasks[0].evaluation = matrix_row([first], 1, SETTINGS, calibrations)
    tasks[1].evaluation = matrix_row([first, second], 2, SETTINGS, calibrations)
    return tasks


def untested_tasks() -> list[Task]:
    """`a` and `b` without test images; `a` has a threshold, and its images changed."""
    tasks = [
        Task(["a"], 2, 2, drift=0.0, calibration=replace(CALIBRATED)),
        Task(["b"], 2, 2, drift=0.3),
    ]
    halves = [Halves(distance=0.9, by_chance=0.4, p=p) for p in (0.004, 0.3)]
    good_images = {
        0: GoodImages(training=27, calibration=3, routed=[2, 1], halves=halves[0]),
        1: GoodImages(training=5, calibration=0, routed=[0, 0], halves=halves[1]),
    }
    alone = {0: good_images[0] | {"routed": [3]}}
    tasks[0].evaluation = matrix_row([], 1, SETTINGS, [CALIBRATED], good_images=alone)
    tasks[1].evaluation = matrix_row([], 2, SETTINGS, [CALIBRATED, None], good_images=good_images)
    return tasks


def runs_in(folder: Path) -> list[Path]:
    """Two runs of the tasks `a` and `b`, the second in the other order and a little worse."""
    first = summarise(learned_tasks(), COST)
    second = json.loads(json.dumps(first))
    second["tasks"] = ["b", "metal_nut & <co>"]
    second["metrics"]["image_auroc"]["routed"] = [0.5, 0.25]
    paths = [folder / "one", folder / "two"]
    for path, summary in zip(paths, (first, second), strict=True):
        (path / "report").mkdir(parents=True)
        (path / "report" / "summary.json").write_text(json.dumps(summary))
    return paths


def on_screen(table: NamesTable | None) -> str:
    """What a table shows on a screen of 80 columns."""
    console = Console(width=80, record=True)
    console.print(table)
    return console.export_text()
