"""Looks at the calibration images of a task that look defective."""

from __future__ import annotations

from typing import Any

from moleflow_pl._internal.names import relative_names
from moleflow_pl._internal.printable import printable
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.gallery import SuspectImage
from moleflow_pl.tasks.schedule import Task

MOST = 6  # images of a task that are named or shown


def look_at_suspects(module: MoLEFlow, data: ContinualDataModule, task: int) -> list[SuspectImage]:
    """The suspects among a task's calibration images that are still on disk, highest first."""
    calibration = module.schedule.tasks[task].calibration
    suspects = [] if calibration is None else calibration.suspects[:MOST]
    loader = data.calibration_images(task) if suspects else None
    if calibration is None or loader is None:
        return []
    images: Any = loader.dataset
    names = relative_names([str(record.path) for record in images.records])
    found = []
    for name, score in suspects:
        if name not in names:
            continue
        batch = images.collate([images[names.index(name)]])
        features = module.inspector.features(batch)
        (patch_scores,) = module.inspector.patch_scores(features, task).float().cpu()
        (product,) = batch["product"]
        limits = calibration.of(product).limits()
        found.append(SuspectImage(batch["path"][0], name, product, score, limits, patch_scores))
    return found


def suspects_told(task: Task, place: str) -> str | None:
    """A sentence about a task's suspects, if it has any.

    Args:
        task: The task.
        place: Its run folder.
    """
    suspects = [] if task.calibration is None else task.calibration.suspects
    if task.calibration is None or not suspects:
        return None
    names = ", ".join(printable(suspect.image) for suspect in suspects[:MOST])
    more = f" and {len(suspects) - MOST} more" if len(suspects) > MOST else ""
    return (
        f"{printable(task.name)}: {len(suspects)} of {len(task.calibration.scores)} calibration "
        f"images look defective, and the threshold was fitted without them: {names}{more}. Look at "
        f"them in {place}/report/report.html before you trust it; moleflow calibrate {place} "
        "--exclude FILE leaves those that FILE names out"
    )
