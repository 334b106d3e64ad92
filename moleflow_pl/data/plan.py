"""What a data module has to know of the model that it feeds."""

from __future__ import annotations

from dataclasses import dataclass

from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.tasks.schedule import TaskSchedule


@dataclass
class DataPlan:
    """Given to `ContinualDataModule.follow` by the model.

    Attributes:
        extractor: Says the size of the images, and computes features that are stored.
        schedule: Which task is current, and which are learned.
        seed: Seed of the run, for orders and draws.
        patch_fraction: Share of every image's patches in a training step.
    """

    extractor: PatchExtractor
    schedule: TaskSchedule
    seed: int
    patch_fraction: float
