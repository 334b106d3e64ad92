"""What a data module needs to know about its model."""

from __future__ import annotations

from dataclasses import dataclass

from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.tasks.schedule import TaskSchedule


@dataclass
class DataPlan:
    """Argument of `ContinualDataModule.follow`, from the model.

    Attributes:
        extractor: Determines the image size, and computes features to store.
        schedule: The tasks, with the current and the learned ones.
        seed: Seed of the run, for orders and draws.
        patch_fraction: Share of every image's patches in a training step.
    """

    extractor: PatchExtractor
    schedule: TaskSchedule
    seed: int
    patch_fraction: float
