"""Real products of the benchmarks: their images, features computed once, and metrics on them.

For `benchmarks.accuracy`, `ablation`, `decisions`, `drift` and `peers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from moleflow_pl import PatchExtractor
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.feature_store import FeatureStore
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.metrics.task_scores import EvaluationOptions, TaskScores
from moleflow_pl.scoring.functional import IMAGE_SCORES, TAIL_QUANTILE

BATCH = 16
METRICS = ("image_auroc", "pixel_ap")
GUIDED = "guided_pixel_ap"  # of maps that follow the image, as those of `predict` do
BLURRED_MAPS = EvaluationOptions()
GUIDED_MAPS = EvaluationOptions(blur_sigma=0.0, upsampling="guided")
IN_PACKAGE = ("solar_mono", "solar_poly")  # from the package elpv-dataset, not from a folder

Scorer = Callable[[Tensor], Tensor]
Values = dict[str, float | None]
T = TypeVar("T")


@dataclass(frozen=True)
class ProductSource:
    """Where the images of a product come from.

    Attributes:
        name: The product.
        root: Folder of the data set; None for the products of a package.
        layout: Layout of that folder.
        train_images: Largest number of training images, evenly spaced.
        test_images: Largest number of test images, evenly spaced; None for all.
    """

    name: str
    root: str | None = None
    layout: str = "mvtec"
    train_images: int = 250
    test_images: int | None = None

    def all_train(self) -> list[ImageRecord]:
        """All good images there are to learn from."""
        return LAYOUTS[self.layout](self.root).train(self.name)

    def train(self) -> list[ImageRecord]:
        """The good images to learn from."""
        return evenly(self.all_train(), self.train_images)

    def test(self) -> list[ImageRecord]:
        """The images to test with, good and defective."""
        records = LAYOUTS[self.layout](self.root).test(self.name)
        return evenly(records, len(records) if self.test_images is None else self.test_images)

    def unused(self) -> list[ImageRecord]:
        """The good images beyond those to learn from, without test images."""
        trained = {record.path for record in self.train()}
        return [record for record in self.all_train() if record.path not in trained]


def product_sources(names: Sequence[str], root: str | None, **limits: Any) -> list[ProductSource]:
    """Sources of products by name: solar cells from their package, the others from a folder.

    Args:
        names: Products.
        root: Data set in the layout of MVTec AD.
        limits: Numbers of images, as `ProductSource` takes them.
    """
    return [
        ProductSource(name, layout="elpv", **limits)
        if name in IN_PACKAGE
        else ProductSource(name, root, **limits)
        for name in names
    ]


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly spread, first and last included.

    Example:
        >>> evenly(range(10), 4)
        [0, 3, 6, 9]
    """
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in chosen]


def loader_of(
    records: Sequence[ImageRecord], size: tuple[int, int], masks: bool = False
) -> DataLoader[Any]:
    """Batches of images at a size, in their order."""
    images = ImageDataset(records, 0, size, masks=masks)
    return DataLoader(images, BATCH, collate_fn=images.collate)


def link_images(records: Sequence[ImageRecord], folder: Path) -> None:
    """Fill a folder with links to images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(records):
        link = folder / f"{i:04d}{record.path.suffix}"
        if not link.is_symlink():
            link.symlink_to(record.path.resolve())


@dataclass(frozen=True)
class ImageScore:
    """How the scores of patches (N, h, w) become a score of each image (N,).

    Attributes:
        name: A score of `moleflow_pl.scoring.functional.IMAGE_SCORES`.
        quantile: Its quantile.
    """

    name: str
    quantile: float

    @property
    def key(self) -> str:
        """Its name in results."""
        return f"{self.name}-{self.quantile:g}"

    def __call__(self, patches: Tensor) -> Tensor:
        """Scores of images."""
        return IMAGE_SCORES[self.name](patches, self.quantile)


AS_PUBLISHED = ImageScore("quantile", 0.99)
AS_DEFAULT = ImageScore("tail", TAIL_QUANTILE)


class ProductFeatures:
    """Features of a product's training and test images, with the labels of the test images.

    Args:
        name: The product.
        extractor: The frozen backbone.
        train: Good images to learn from.
        test: Images to score.
        folder: Folder of features shared with other runs; without it they stay in memory.

    Attributes:
        train: Features (N, h, w, D).
        test: Features (M, h, w, D).
        defective: Which test images are defective (M,), bool.
    """

    def __init__(
        self,
        name: str,
        extractor: PatchExtractor,
        train: Sequence[ImageRecord],
        test: Sequence[ImageRecord],
        folder: Path | None = None,
    ) -> None:
        self.name = name
        store = FeatureStore(folder or Path(), keep=folder is not None, memory_limit=2**40)

        def features(records: Sequence[ImageRecord], part: str) -> Tensor:
            loader = loader_of(records, extractor.image_size)
            return store.get(extractor, loader, f"features of {name} ({part})")

        self.train, self.test = features(train, "train"), features(test, "test")
        self.defective = torch.tensor([bool(record.gt_label) for record in test])
        # without masks, there are no maps for the images to guide
        size = extractor.image_size if any(record.has_masks for record in test) else (8, 8)
        self._batches: list[dict[str, Any]] = list(loader_of(test, size, masks=True))

    def scores(self, scorer: Scorer) -> Tensor:
        """Patch scores (N, h, w) of the test images by a function of features (B, h, w, D)."""
        with torch.inference_mode():
            return torch.cat([scorer(part) for part in self.test.split(BATCH)])

    def metrics(self, patches: Tensor, score: Scorer) -> Values:
        """Image AUROC of patch scores (N, h, w), and pixel AP where there are masks.

        Args:
            patches: Scores of patches.
            score: Turns them into scores of images (N,).
        """
        values = self._evaluated(patches, score, BLURRED_MAPS)
        return {metric: values[metric]["routed"] for metric in METRICS}

    def guided_pixel_ap(self, patches: Tensor) -> float | None:
        """Pixel AP of patch scores (N, h, w) by maps that follow the image."""
        return self._evaluated(patches, AS_DEFAULT, GUIDED_MAPS)["pixel_ap"]["routed"]

    def both_maps(self, patches: Tensor, score: Scorer) -> Values:
        """The metrics, with the pixel AP of guided maps too."""
        return {**self.metrics(patches, score), GUIDED: self.guided_pixel_ap(patches)}

    def result(self, patches: Tensor, score: Scorer) -> dict[str, Any]:
        """Metrics of patch scores (N, h, w), and the scores of the images."""
        return {**self.metrics(patches, score), "scores": score(patches).double().tolist()}

    def _evaluated(
        self, patches: Tensor, score: Scorer, options: EvaluationOptions
    ) -> dict[str, Values]:
        """All metrics of patch scores (N, h, w), by routing mode."""
        gathered = TaskScores(0, options)
        for batch, part in zip(self._batches, patches.split(BATCH), strict=True):
            images, zeros = score(part), torch.zeros(len(part))
            output = {
                "routed_task": zeros.long(),
                "router_distance": zeros,
                "distances": zeros[:, None],
            }
            output |= {f"{mode}_score": images for mode in ("routed", "oracle")}
            output |= {f"{mode}_map": part for mode in ("routed", "oracle")}
            gathered.update(batch, output)
        return gathered.metrics()["values"]
