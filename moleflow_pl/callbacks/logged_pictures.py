"""The gallery for loggers of pictures: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from moleflow_pl.data.images import open_content
from moleflow_pl.metrics.task_scores import TaskScores

if TYPE_CHECKING:
    from moleflow_pl.report.gallery import GalleryPage

# logs a picture: tag, picture, caption, step
Take = Callable[[str, Image.Image, str, int], None]


def log_gallery(
    loggers: Sequence[Logger], scores: Sequence[TaskScores], names: Sequence[str], step: int
) -> None:
    """Log the gallery of an evaluation to all loggers that accept pictures.

    Args:
        loggers: The Trainer's loggers.
        scores: The scores of each task.
        names: Names of all tasks.
        step: Step of the curves at the evaluation.
    """
    takers = [take for logger in loggers if (take := taker_of(logger)) is not None]
    if not takers:
        return
    # the drawing library is slow to import
    from moleflow_pl.report.gallery import build_gallery

    for page in (page for of_task in scores for page in build_gallery(of_task, names)):
        for place, picture, caption in pictures_of(page):
            for take in takers:
                take(place, picture, caption, step)


def taker_of(logger: Logger) -> Take | None:
    """A function that logs a picture to a logger; None if it accepts no pictures."""
    if isinstance(logger, TensorBoardLogger):

        def to_tensorboard(place: str, picture: Image.Image, caption: str, step: int) -> None:
            writer: Any = logger.experiment
            writer.add_image(place, np.asarray(picture), step, dataformats="HWC")
            writer.add_text(place, caption, step)

        return to_tensorboard
    if isinstance(logger, MLFlowLogger):

        def to_mlflow(place: str, picture: Image.Image, caption: str, step: int) -> None:
            file = f"{place}/{step}.png"
            client: Any = logger.experiment
            client.log_image(logger.run_id, picture, artifact_file=file)

        return to_mlflow
    if isinstance(logger, WandbLogger):

        def to_wandb(place: str, picture: Image.Image, caption: str, step: int) -> None:
            logger.log_image(place, [picture], step, caption=[caption])

        return to_wandb
    return None


def pictures_of(page: GalleryPage) -> Iterator[tuple[str, Image.Image, str]]:
    """For each example of a product: its tag, its pictures side by side, and its caption."""
    for title, examples in page.groups.items():
        group = slug(title.partition(":")[0])
        for number, example in enumerate(examples):
            place = f"gallery/{slug(page.product)}/{group}/{number}"
            yield place, side_by_side(example.pictures), f"{example.name}: {example.caption}"


def slug(name: str) -> str:
    """A name reduced to characters that are safe in a path.

    Example:
        >>> slug("missed, labelled normal"), slug("..")
        ('missed-labelled-normal', '-')
    """
    return re.sub(r"[^\w-]+", "-", name)


def side_by_side(pictures: Mapping[str, str]) -> Image.Image:
    """Join pictures of equal height, given as data URIs, into one."""
    images = [
        open_content(base64.b64decode(uri.partition(",")[2])).convert("RGB")
        for uri in pictures.values()
    ]
    joined = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    left = 0
    for image in images:
        joined.paste(image, (left, 0))
        left += image.width
    return joined
