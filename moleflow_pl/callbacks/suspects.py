"""Looks at the calibration images of a task that look defective."""

from __future__ import annotations

from moleflow_pl._internal.names import relative_names
from moleflow_pl._internal.printable import printable
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.gallery import SuspectImage
from moleflow_pl.tasks.schedule import Task

MOST = 6  # images of a task that are named or shown


def look_at_suspects(module: MoLEFlow, data: ContinualDataModule, task: int) -> list[SuspectImage]:
    """The suspects among a task's calibration images that are still on disk, highest first."""
    learned = module.schedule.tasks[task]
    suspects = [] if learned.calibration is None else learned.calibration.suspects[:MOST]
    if learned.calibration is None or not suspects:
        return []
    wanted = {suspect.image: suspect.score for suspect in suspects}
    batches = data.calibration_images(task) or ()
    paths = [path for batch in batches for path in batch["path"]]
    names = dict(zip(paths, relative_names(paths), strict=True))
    found = {}
    for batch in batches:
        rows = [i for i, path in enumerate(batch["path"]) if names[path] in wanted]
        if not rows:
            continue
        images = batch["image"][rows].to(module.device)
        patch_scores = module.inspector.patch_scores(module.inspector.extractor(images), task)
        for row, scores in zip(rows, patch_scores.float().cpu(), strict=True):
            path, product = batch["path"][row], batch["product"][row]
            limits = learned.calibration.of(product).limits()
            name = names[path]
            found[name] = SuspectImage(path, name, product, wanted[name], limits, scores)
    return [found[name] for name in wanted if name in found]


def suspects_told(task: Task, place: str) -> str | None:
    """A sentence about a task's suspects, if it has any.

    Args:
        task: The task.
        place: Its run folder.
    """
    if task.calibration is None or not task.calibration.suspects:
        return None
    suspects = task.calibration.suspects
    names = ", ".join(printable(suspect.image) for suspect in suspects[:MOST])
    more = f" and {len(suspects) - MOST} more" if len(suspects) > MOST else ""
    return (
        f"{printable(task.name)}: {len(suspects)} of {len(task.calibration.scores)} calibration "
        f"images look defective, and the threshold was fitted without them: {names}{more}. Look at "
        f"them in {place}/report/report.html before you trust it; moleflow calibrate {place} "
        "--exclude FILE leaves those that FILE names out"
    )
