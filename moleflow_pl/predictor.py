"""What a model says of single images, as decisions; and a predictor that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moleflow_pl.calibration import Limits
from moleflow_pl.data.images import deep_to_bytes, read_rgb, to_tensor, upright_rgb
from moleflow_pl.errors import CheckpointError, DataError
from moleflow_pl.inspection import Inspection
from moleflow_pl.localisation import Box, find_boxes, pixel_map
from moleflow_pl.module import MoLEFlow
from moleflow_pl.schedule import TaskSchedule

Label = Literal["normal", "anomalous", "unknown_product"]
ImageLike = Image.Image | np.ndarray | Tensor | str | Path
BATCH = 16
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        product: The known product that the router chose, or the one that was asked for.
        score: Raw anomaly score; compare it within a product.
        router_distance: The router's distance to the product.
        router_margin: Distance to the nearest other product, less that to this one: below 0 where
            the other is nearer and yet more deviations away. None where there is no other.
        patch_scores: (h, w).
        size: Height and width of the image.
        label: The decision; it and what follows are None where the product has no calibration.
        threshold: Scores above it are anomalous.
        normalised_score: The same for every product, in 0..1, 0.5 at the threshold.
        novelty: Distance to the good images of the product they are most like, as a share of that
            product's limit; beyond 1 the image is of no known product.
        pixel_threshold: Limit on a pixel's score.
        level: Score of an ordinary patch of the product, where a heatmap begins.
    """

    product: str
    score: float
    router_distance: float
    router_margin: float | None
    patch_scores: Tensor
    size: tuple[int, int]
    label: Label | None = None
    threshold: float | None = None
    normalised_score: float | None = None
    novelty: float | None = None
    pixel_threshold: float | None = None
    level: float | None = None

    @cached_property
    def anomaly_map(self) -> Tensor:
        """Raw scores of the image's pixels (H, W)."""
        return pixel_map(self.patch_scores, self.size)

    @property
    def boxes(self) -> list[Box]:
        """Where pixels exceed the pixel threshold, the worst first."""
        limit = self.pixel_threshold
        return [] if limit is None else find_boxes(self.anomaly_map, limit)


class Judge:
    """Turns what a model computed into decisions, by the calibration of each product.

    Args:
        schedule: The model's tasks.
        product: The product that all images show, whatever the router says.

    Raises:
        ConfigError: there is no such product.
    """

    def __init__(self, schedule: TaskSchedule, product: str | None = None) -> None:
        self.names = schedule.names
        self.task = None if product is None else schedule.find(product)
        self.limits: dict[int, Limits] = {}
        for index in schedule.learned:
            found = schedule.tasks[index].calibration
            if found is not None:
                # which product of a task an image shows is known where it is told
                self.limits[index] = (found if product is None else found.of(product)).limits()
        self.learned = list(schedule.learned)  # in the order of a model's distances
        # a product without a limit makes no image known
        self.distance_limits = torch.tensor(
            [schedule.tasks[index].distance_limit for index in self.learned]
        )

    def judge(self, found: Inspection, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Decide about the images of a batch, of these heights and widths."""
        shares = found.novelty.cpu() / self.distance_limits
        novelty = shares.nan_to_num(torch.inf).amin(1).tolist()
        return [self._judge(found, i, size, novelty[i]) for i, size in enumerate(sizes)]

    def _judge(
        self, found: Inspection, i: int, size: tuple[int, int], novelty: float
    ) -> Prediction:
        task, score = int(found.task[i]), found.score[i].item()
        distances = found.distances[i].tolist()
        own = distances.pop(self.learned.index(task))
        return Prediction(
            product=self.names[task],
            score=score,
            router_distance=own,
            router_margin=min(distances) - own if self.task is None and distances else None,
            patch_scores=found.patch_scores[i].cpu(),
            size=size,
            **self._decision(task, score, novelty),
        )

    def _decision(self, task: int, score: float, novelty: float) -> dict[str, Any]:
        """What a calibration adds to an image's numbers; nothing without one."""
        limits = self.limits.get(task)
        if limits is None:
            return {}
        # a score that is no number passes nothing
        label: Label = "normal" if score <= limits.score else "anomalous"
        # whoever names the product knows it
        if self.task is None and novelty > 1:
            label = "unknown_product"
        return {
            "label": label,
            "threshold": limits.score,
            "normalised_score": limits.comparable(score),
            "novelty": novelty,
            "pixel_threshold": limits.pixel,
            "level": limits.level,
        }


class Predictor:
    """A trained model that takes images and gives decisions: no trainer, no config, no data set.

    Args:
        model: A model with learned tasks.
        product: The product that all images show; by default the router tells.

    Example:
        `Predictor.load("runs/demo")(Image.open("cell.png")).label`
    """

    def __init__(self, model: MoLEFlow, product: str | None = None) -> None:
        self.model = model.eval()
        self.judge = Judge(model.schedule, product)

    @classmethod
    def load(
        cls, path: str | Path, product: str | None = None, device: str | torch.device = "cpu"
    ) -> Predictor:
        """Load a run folder or a checkpoint.

        Raises:
            CheckpointError: there is none, or it is of another backbone.
            ConfigError: it knows no such product.
        """
        path = Path(path).expanduser()
        file = path / "last.ckpt" if path.is_dir() else path
        if not file.is_file():
            raise CheckpointError(f"no checkpoint at {file}: give a run folder or a .ckpt file")
        return cls(MoLEFlow.load_from_checkpoint(file, map_location=device), product)

    @property
    def products(self) -> list[str]:
        """What the model knows."""
        schedule = self.model.schedule
        return [name for task in schedule.learned for name in schedule.tasks[task].products]

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Any:
        """Inspect one image, or several of any sizes.

        Args:
            images: A PIL image, a path, an array (H, W) or (H, W, C), a tensor (C, H, W); or a list
                of them, an array (B, H, W, C), a tensor (B, C, H, W). Values are 8- or 16-bit
                integers, or floats in [0, 1].

        Returns:
            A prediction for a single image, a list for several.

        Raises:
            DataError: something is no image.
        """
        several = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
        if not several:
            return next(self.stream([images]))
        return list(self.stream(images))  # type: ignore[arg-type]

    def stream(self, images: Iterable[Any]) -> Iterator[Prediction]:
        """Inspect images one after another, a batch in memory at a time."""
        size, device = self.model.extractor.image_size, self.model.device
        source = iter(images)
        while batch := [as_rgb(image) for image in islice(source, BATCH)]:
            tensors = torch.stack([to_tensor(rgb, size) for rgb in batch]).to(device)
            with torch.inference_mode():
                found = self.model.inspect(self.model.extractor(tensors), self.judge.task)
            yield from self.judge.judge(found, [(rgb.height, rgb.width) for rgb in batch])


def as_rgb(image: ImageLike) -> Image.Image:
    """Anything that holds an image as 8-bit RGB.

    Raises:
        DataError: it holds none.

    Example:
        >>> as_rgb(torch.zeros(3, 4, 5)).size
        (5, 4)
    """
    if isinstance(image, (str, Path)):
        return read_rgb(Path(image))
    if isinstance(image, Image.Image):
        try:
            return upright_rgb(image)
        except ValueError as error:
            raise DataError(f"this image cannot be used: {error}") from error
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        raise DataError(
            f"no image: an array is (H, W) or (H, W, C), a tensor (C, H, W), with C one of "
            f"{CHANNELS}, got {type(image).__name__} of shape {tuple(image.shape)}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(as_bytes(array)).convert("RGB")


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Values of an image as 8 bits.

    Raises:
        DataError: floats beyond [0, 1], or another kind of number.

    Example:
        >>> as_bytes(np.array([[0.0, 1.0]])).tolist()
        [[0, 255]]
    """
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return deep_to_bytes(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"an image holds uint8, uint16, bool or floats in [0, 1], got {array.dtype}"
        )
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise DataError(
            f"an image of floats lies in [0, 1], got {array.min()} to {array.max()}: scale it, or "
            "give uint8"
        )
    return np.round(array * 255).astype(np.uint8)
