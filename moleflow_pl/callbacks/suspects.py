"""Finds good images of a task that look defective."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from moleflow_pl._internal.printable import printable
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.gallery import SuspectImage
from moleflow_pl.tasks.calibration import Suspect
from moleflow_pl.tasks.schedule import Task

MOST = 6  # images of a task to name or show


def look_at_suspects(module: MoLEFlow, data: ContinualDataModule, task: int) -> list[SuspectImage]:
    """The suspects of a task that are still on disk, calibration images before training images.

    Training images are included only in the process that has learned the task, since their
    leave-one-out patch scores are not saved.
    """
    calibration = module.schedule.tasks[task].calibration
    suspects = [] if calibration is None else calibration.suspects[:MOST]
    if calibration is None or not suspects:
        return []
    training, images = calibration.training, []
    # not strict: the names of one kind of images may be unknown
    products = dict(zip(calibration.images, calibration.products, strict=False))
    products |= dict(zip(training.images, training.products, strict=False))
    shown = chain(
        calibration_maps(module, data, task, suspects), training_maps(module, task, suspects)
    )
    for path, (name, score), patch_scores in shown:
        limits = calibration.for_product(products[name]).limits()
        images.append(SuspectImage(path, name, products[name], score, limits, patch_scores))
    return images


def calibration_maps(
    module: MoLEFlow, data: ContinualDataModule, task: int, suspects: list[Suspect]
) -> Iterator[tuple[str, Suspect, Tensor]]:
    """Path and patch scores (h, w) of each suspect among the calibration images on disk."""
    loader = data.calibration_images(task)
    if loader is None:
        return
    images: Any = loader.dataset
    paths = [str(record.path) for record in images.records]
    for suspect in suspects:
        if (path := path_ending_with(suspect.image, paths)) is None:
            continue
        batch = images.collate([images[paths.index(path)]])
        features = module.inspector.features(batch)
        (patch_scores,) = module.inspector.patch_scores(features, task).float().cpu()
        yield path, suspect, patch_scores


def training_maps(
    module: MoLEFlow, task: int, suspects: list[Suspect]
) -> Iterator[tuple[str, Suspect, Tensor]]:
    """Path and patch scores (h, w) of each suspect among the training images."""
    maps = module.learner.highest_training.get(task, {})
    for suspect in suspects:
        if (path := path_ending_with(suspect.image, maps)) is not None:
            yield path, suspect, maps[path]


def path_ending_with(name: str, paths: Iterable[str]) -> str | None:
    """The first path that ends with the name of an image; None without one.

    Example:
        >>> path_ending_with("good/1.png", ["/data/bad/1.png", "/data/good/1.png"])
        '/data/good/1.png'
    """
    return next((path for path in paths if Path(path).as_posix().endswith(f"/{name}")), None)


def suspects_warning(task: Task, run: str) -> str | None:
    """A warning about a task's suspects; None without any.

    Args:
        task: The task.
        run: Its run folder, or that of an update.
    """
    suspects = [] if task.calibration is None else task.calibration.suspects
    if task.calibration is None or not suspects:
        return None
    good = task.calibration.scores + task.calibration.training.scores
    changed = shlex.quote(str(RunFolder(Path(run)).updated.root))
    names = ", ".join(printable(suspect.image) for suspect in suspects[:MOST])
    more = f" and {len(suspects) - MOST} more" if len(suspects) > MOST else ""
    return (
        f"{printable(task.name)}: {len(suspects)} of {len(good)} good images look defective: "
        f"{names}{more}. Look at them in {RunFolder(Path(run)).page}. The threshold was fitted "
        f"without them; moleflow calibrate {changed} --exclude FILE permanently leaves out those "
        "that FILE lists. The expert has also learned from a defective training image: remove it, "
        "and learn the product again with moleflow experts update"
    )
