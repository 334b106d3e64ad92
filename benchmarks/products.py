"""Real products of the benchmarks: features of their images, computed once, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from moleflow_pl import PatchExtractor
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.feature_store import FeatureStore
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.metrics.task_scores import EvaluationOptions, TaskScores

BANK = 8000  # patches of a product that a bank keeps
BATCH = 16
METRICS = ("image_auroc", "pixel_ap")

Scorer = Callable[[Tensor], Tensor]
Values = dict[str, float | None]


class Product:
    """Features of a product's training and test images, and what the test images are.

    Args:
        name: The product.
        extractor: The frozen backbone.
        train: Good images to learn from.
        test: Images to score.
        folder: Where features are kept for other runs; by default in memory alone.
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
            images = ImageDataset(records, 0, extractor.image_size)
            loader = DataLoader(images, BATCH, collate_fn=images.collate)
            return store.get(extractor, loader, f"features of {name} ({part})")

        self.train, self.test = features(train, "train"), features(test, "test")
        self.defective = torch.tensor([bool(record.gt_label) for record in test])
        marked = ImageDataset(test, 0, (8, 8), masks=True)  # of the images only their masks
        self._batches: list[dict[str, Any]] = list(
            DataLoader(marked, BATCH, collate_fn=marked.collate)
        )

    def scores(self, scorer: Scorer) -> Tensor:
        """Patch scores (N, h, w) of the test images by a function of features (B, h, w, D)."""
        with torch.inference_mode():
            return torch.cat([scorer(part) for part in self.test.split(BATCH)])

    def metrics(self, patches: Tensor, score: Scorer) -> Values:
        """Image AUROC, and pixel AP where there are masks, of patch scores (N, h, w).

        Args:
            patches: The patches' scores.
            score: Of images (N,), from them.
        """
        gathered = TaskScores(0, EvaluationOptions())
        for batch, part in zip(self._batches, patches.split(BATCH), strict=True):
            one, none = score(part), torch.zeros(len(part))
            output = {"routed_task": none.long(), "router_distance": none}
            output["distances"] = none[:, None]
            output |= {f"{way}_score": one for way in ("routed", "oracle")}
            output |= {f"{way}_map": part for way in ("routed", "oracle")}
            gathered.update(batch, output)
        values = gathered.metrics()["values"]
        return {metric: values[metric]["routed"] for metric in METRICS}


def nearest_in(bank: Tensor) -> Scorer:
    """Distance of each patch to the nearest row of a bank (M, D)."""

    def score(patches: Tensor) -> Tensor:
        rows = patches.flatten(0, -2).split(2048)
        return torch.cat([torch.cdist(part, bank).amin(1) for part in rows]).reshape(
            patches.shape[:-1]
        )

    return score


def sample_patches(features: Tensor, seed: int, count: int = BANK) -> Tensor:
    """Some patches, as many as a bank has, drawn from features (N, h, w, D) without repetition."""
    rows = features.flatten(0, 2)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:count]]
