"""Finds the good images of a task with the highest scores, and those that look defective."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from moleflow_pl._internal.printable import printable, quoted
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.gallery import SuspectImage
from moleflow_pl.tasks.calibration import Ranking, Suspect
from moleflow_pl.tasks.schedule import Task

FEW, MOST = 3, 6  # images of each kind to show, if none looks defective and if many do


def look_at_suspects(module: MoLEFlow, data: ContinualDataModule, task: int) -> list[SuspectImage]:
    """The good images of a task with the highest scores of each kind, if they are still on disk.

    Only the process that has learned the task has the leave-one-out patch scores of training
    images, since they are not saved.
    """
    calibration = module.schedule.tasks[task].calibration
    if calibration is None:
        return []
    training, images = calibration.training, []
    # not strict: the names of one kind of images may be unknown
    products = dict(zip(calibration.images, calibration.products, strict=False))
    products |= dict(zip(training.images, training.products, strict=False))
    for kind, (ranked, suspects) in calibration.ranked.items():
        maps = calibration_maps if kind == "calibration" else training_maps
        highest = ranked[: min(max(suspects, FEW), MOST)]
        for path, suspect, patch_scores, variant in maps(module, data, task, highest):
            name, score = suspect
            limits = calibration.for_product(products[name]).limits()
            looks_defective = suspect in ranked[:suspects]
            image = SuspectImage(
                kind, looks_defective, path, name, products[name], score, limits, patch_scores,
                variant,
            )  # fmt: skip
            images.append(image)
    return images


def calibration_maps(
    module: MoLEFlow, data: ContinualDataModule, task: int, highest: list[Suspect]
) -> Iterator[tuple[str, Suspect, Tensor, str | None]]:
    """Path, patch scores (h, w) and variant of each of these calibration images that is on disk."""
    images, paths = calibration_images(data, task)
    named = [(path_ending_with(suspect.image, paths), suspect) for suspect in highest]
    found = [(path, suspect) for path, suspect in named if path is not None]
    if not found:
        return
    places = [paths.index(path) for path, _ in found]
    batch = images.collate([images[place] for place in places])
    maps = module.inspector.patch_scores(module.inspector.features(batch), task).float().cpu()
    for (path, suspect), place, patch_scores in zip(found, places, maps, strict=True):
        yield path, suspect, patch_scores, images.records[place].variant


def training_maps(
    module: MoLEFlow, data: ContinualDataModule, task: int, highest: list[Suspect]
) -> Iterator[tuple[str, Suspect, Tensor | None, None]]:
    """Path and patch scores (h, w) of each of these training images; None if they are not known."""
    maps = module.learner.highest_training.get(task, {})
    _, others = calibration_images(data, task)
    calibration = module.schedule.tasks[task].calibration
    names = [] if calibration is None else calibration.images
    found = ((name, path_ending_with(name, others)) for name in names)
    # all names are relative to one folder
    folder = next((path.removesuffix(name) for name, path in found if path is not None), None)
    for suspect in highest:
        if (path := path_ending_with(suspect.image, maps)) is not None:
            yield path, suspect, maps[path], None
        elif folder is not None:
            yield f"{folder}{suspect.image}", suspect, None, None


def calibration_images(data: ContinualDataModule, task: int) -> tuple[Any, list[str]]:
    """The data set of a task's calibration images, and their paths; no paths without any."""
    loader = data.calibration_images(task)
    images: Any = None if loader is None else loader.dataset
    return images, [] if images is None else [record.path.as_posix() for record in images.records]


def path_ending_with(name: str, paths: Iterable[str]) -> str | None:
    """The first path that ends with the name of an image; None without one.

    Example:
        >>> path_ending_with("good/1.png", ["/data/bad/1.png", "/data/good/1.png"])
        '/data/good/1.png'
    """
    return next((path for path in paths if Path(path).as_posix().endswith(f"/{name}")), None)


def named(ranking: Ranking) -> str:
    """Names of the images that look defective, without those beyond the first few.

    Example:
        >>> named(Ranking([Suspect(f"{i}.png", 1.0) for i in range(9)], 7))
        '0.png, 1.png, 2.png, 3.png, 4.png, 5.png and 1 more'
    """
    count = min(ranking.suspects, MOST)
    names = ", ".join(printable(suspect.image) for suspect in ranking.images[:count])
    return f"{names} and {ranking.suspects - count} more" if ranking.suspects > count else names


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
    changed = quoted(str(RunFolder(Path(run)).updated.root))
    kinds = task.calibration.ranked.items()
    names = "; ".join(f"for {kind} {named(ranked)}" for kind, ranked in kinds if ranked.suspects)
    return (
        f"{printable(task.name)}: {len(suspects)} of {len(good)} good images look defective: "
        f"{names}. Look at them in {RunFolder(Path(run)).page}. The threshold was fitted "
        f"without them; moleflow calibrate {changed} --exclude FILE permanently leaves out those "
        "that FILE lists. The expert has also learned from a defective training image: remove it, "
        "and learn the product again with moleflow experts update"
    )
