"""`Predictor`: a trained model that takes images and gives decisions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from moleflow_pl._internal.devices import usual_device
from moleflow_pl._internal.validation import require_int
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.data.image_forms import Channels, ImageLike, are_several, as_rgb
from moleflow_pl.data.images import to_tensor
from moleflow_pl.errors import CheckpointError, ConfigError, DataError
from moleflow_pl.inference.decisions import DecisionMaker, Prediction
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.model.restore import load_inspector

BATCH = 16
LARGEST_BATCH = 65536


class HasInspector(Protocol):
    """A model that owns an inspector, such as `MoLEFlow`."""

    inspector: Inspector


@dataclass(frozen=True)
class PreparedImage:
    """An image as input of a model.

    Attributes:
        tensor: (3, H, W) of the model's size, uint8.
        size: Height and width of the image itself.
    """

    tensor: Tensor
    size: tuple[int, int]


class Predictor:
    """A trained model that takes images and gives decisions: no trainer, no config, no data set.

    Args:
        model: An inspector with learned tasks, or a `MoLEFlow`.
        product: The product that all images show; by default the router decides.
        thresholds: Thresholds of your own, by product; by default those of the calibration, at the
            false-alarm rates of `inspector.schedule`.

    Example:
        `Predictor.load("runs/demo")(Image.open("cell.png")).label`
    """

    def __init__(
        self,
        model: Inspector | HasInspector,
        product: str | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        inspector = getattr(model, "inspector", model)
        if not isinstance(inspector, Inspector):
            raise ConfigError(
                f"a Predictor needs a MoLEFlow or an Inspector, got {type(model).__name__}; to "
                "read a file, call Predictor.load"
            )
        self.inspector = inspector.eval()
        self.decisions = DecisionMaker(inspector.schedule, product, thresholds)

    @classmethod
    def load(
        cls,
        path: str | Path,
        product: str | None = None,
        device: str | torch.device = "auto",
        backbone_weights: str | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> Predictor:
        """Load a run folder or a checkpoint.

        Args:
            path: The run folder or the checkpoint.
            product: The product that all images show; by default the router decides.
            device: Where the model goes; `auto` is a CUDA device where there is one, else the CPU.
            backbone_weights: Where the backbone's weights are now, if they have moved.
            thresholds: Thresholds of your own, by product.

        Raises:
            CheckpointError: the checkpoint is missing, or of another backbone.
            ConfigError: the model does not know the product.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise CheckpointError(
                f"no checkpoint at {path!r}: give the path of a run folder or of a .ckpt file"
            )
        # os.path: a name that is too long for the disk is no file either
        path = Path(os.path.expanduser(path))
        file = RunFolder(path).last if os.path.isdir(path) else path
        if not os.path.exists(file):
            raise CheckpointError(f"no checkpoint at {file}: give a run folder or a .ckpt file")
        moved = {} if backbone_weights is None else {"backbone_weights": str(backbone_weights)}
        place = auto_device() if device == "auto" else device
        return cls(load_inspector(file, place, **moved), product, thresholds)

    @property
    def products(self) -> list[str]:
        """Names of the learned products."""
        schedule = self.inspector.schedule
        return [name for task in schedule.learned for name in schedule.tasks[task].products]

    def __call__(self, images: ImageLike | Iterable[ImageLike], channels: Channels = "rgb") -> Any:
        """Inspect one image, or several of any sizes.

        Args:
            images: A PIL image, a path, the bytes of a file, an open file, an array (H, W) or
                (H, W, C), a tensor (C, H, W); or a list or generator of them, an array
                (B, H, W, C), a tensor (B, C, H, W). Values are 8- or 16-bit integers, or floats in
                [0, 1].
            channels: The order of the channels in arrays and tensors; `bgr` for those of OpenCV.

        Returns:
            A prediction for a single image, a list for several.

        Raises:
            DataError: an item is not an image.
        """
        if are_several(images):
            return list(self.stream(images, BATCH, channels))  # type: ignore[arg-type]
        return next(self.stream([images], channels=channels))

    def stream(
        self, images: Iterable[Any], batch_size: int = 1, channels: Channels = "rgb"
    ) -> Iterator[Prediction]:
        """Inspect images one after another; one image at its own size is in memory at a time.

        Args:
            images: As for a call; several.
            batch_size: Images that are inspected at once. With 1, each image of a camera is
                answered before the next is asked for; more at once take less time for each.
            channels: As for a call.

        Raises:
            ConfigError: an argument has an invalid value.
            DataError: an item is not an image, or a single image was given.
        """
        require_int("batch_size", batch_size, 1, LARGEST_BATCH)
        if channels not in get_args(Channels):
            raise ConfigError(f"channels must be one of {get_args(Channels)}, got {channels!r}")
        if not are_several(images):
            name = type(images).__name__
            raise DataError(
                f"stream needs a list or a generator of images, got {name}: call the predictor for "
                "one"
            )
        source = iter(images)
        while batch := [self.prepare(image, channels) for image in islice(source, batch_size)]:
            yield from self.inspect(batch)

    def prepare(self, image: ImageLike, channels: Channels = "rgb") -> PreparedImage:
        """Decode and resize an image; several threads may call this at once.

        Raises:
            DataError: `image` is not an image.
        """
        rgb = as_rgb(image, channels)
        tensor = to_tensor(rgb, self.inspector.extractor.image_size)
        return PreparedImage(tensor, (rgb.height, rgb.width))

    def inspect(self, batch: Sequence[PreparedImage]) -> list[Prediction]:
        """Inspect a batch of images; its size may change the last bits of a score."""
        inspector = self.inspector
        tensors = torch.stack([prepared.tensor for prepared in batch]).to(inspector.device)
        with torch.inference_mode(), usual_device():
            inspection = inspector.inspect(inspector.extractor(tensors), self.decisions.task)
            sizes = [prepared.size for prepared in batch]
            return self.decisions.decide(inspection, sizes, tensors)


def auto_device() -> torch.device:
    """A CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
