"""Statistics of the good images of a task without test images."""

from __future__ import annotations

import torch

from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.features.region_of_interest import rows_of
from moleflow_pl.metrics.good_images import GoodImages, compare_halves
from moleflow_pl.module import MoLEFlow


def evaluate_good_images(module: MoLEFlow, data: ContinualDataModule, task: int) -> GoodImages:
    """Route a task's calibration images, and compare their first and second half."""
    inspector, products = module.inspector, module.schedule.tasks[task].products
    counts = [data.count_images([task])[product] for product in products]
    routed = torch.zeros(len(module.schedule.tasks), dtype=torch.long)
    means, shown = [], []
    for batch in data.calibration_images(task) or ():
        features = inspector.features(batch)
        chosen = inspector.inspect(features).task.cpu()
        routed += torch.bincount(chosen, minlength=len(routed))
        patches = rows_of(inspector.joined(features), inspector.interest.for_task(task))
        means.append(patches.mean((1, 2)).float().cpu())
        shown += batch["product"]
    return GoodImages(
        training=sum(count["train"] for count in counts),
        calibration=sum(count["val"] for count in counts),
        routed=routed[: len(module.schedule.learned)].tolist(),
        halves=compare_halves(torch.cat(means), shown) if means else None,
    )
