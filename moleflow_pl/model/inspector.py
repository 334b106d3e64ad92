"""What inference needs, as one module: from images to scores and to the product they show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl.data.batches import Batch, PredictBatch
from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.features.position import NoPosition, PositionalGrid
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.routing.image_features import ImageFeatures, RegionMeans
from moleflow_pl.routing.novelty import ordinary_quantile, sample_patches
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.router import NEAREST, PrototypeRouter
from moleflow_pl.scoring.memory_bank import MemoryBank, projection_distance
from moleflow_pl.scoring.patch_scores import BankScore, PatchScore
from moleflow_pl.tasks.schedule import TaskSchedule

CACHED_BANKS = 128  # products whose bank is ready to search: 6 MB each at 384 channels


@dataclass
class Inspection:
    """What the model says of a batch of images.

    Attributes:
        score: Anomaly score of each image (B,).
        patch_scores: Score of each patch (B, h, w): in nats for the NLL, else a distance in the
            latent space.
        task: The task whose expert scored each image (B,).
        distances: Router distances (B, T), in the order of `router.tasks`.
        novelty_distance: Distance of each image's most ordinary patches from good images of the
            tasks that the router finds nearest (B, T), in the same order, infinite for the others.
    """

    score: Tensor
    patch_scores: Tensor
    task: Tensor
    distances: Tensor
    novelty_distance: Tensor


class Inspector(nn.Module):
    """Scores images by the experts of the products they show.

    Build one by name with `build_inspector`, or from parts of your own. It needs no Lightning;
    `MoLEFlow` owns one and trains it.

    Args:
        extractor: Turns images into patch features.
        flow: The shared flow and its experts, as wide as the features.
        router: Finds the task of an image.
        patch_score: Scores patches.
        image_score: Patch scores (B, h, w) -> image scores (B,).
        position: Adds the position code; none by default.
        image_features: What the router sees of an image; the mean of regions by default.
        bank_size: Latents in the memory bank of each task, where the score needs one.
        routes: Whether the router decides; without, all images go to the first task.

    Attributes:
        schedule: The tasks, with their calibrations.
        novelty: Distances to each task's own good images, whatever other tasks there are.

    Shape: images (B, 3, H, W), uint8 or float in [0, 1] -> `Inspection`.
    """

    def __init__(
        self,
        extractor: PatchExtractor,
        flow: MoLESpatialAwareNF,
        router: PrototypeRouter,
        patch_score: PatchScore,
        image_score: Callable[[Tensor], Tensor],
        position: PositionalGrid | NoPosition | None = None,
        image_features: ImageFeatures | None = None,
        bank_size: int = 4000,
        routes: bool = True,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.position = NoPosition() if position is None else position
        self.flow = flow
        self.router = router
        self.novelty = PrototypeRouter("shrunk")
        self.banks = nn.ModuleDict()
        self.image_score = image_score
        self.image_features = RegionMeans() if image_features is None else image_features
        self.bank_size = bank_size
        self.routes = routes
        self.schedule = TaskSchedule()
        self.arguments: dict[str, Any] = {}  # of `build_inspector`, where it built this
        self.set_patch_score(patch_score)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.flow.reference_mean.device

    def forward(self, images: Tensor) -> Inspection:
        """Score images of any known products."""
        return self.inspect(self.extractor(images))

    def features(self, batch: Batch | PredictBatch) -> Tensor:
        """Features (B, h, w, D) of a batch, stored or computed from its images."""
        stored = batch.get("features")
        if isinstance(stored, Tensor):
            return stored.to(self.device, non_blocking=True)
        return self.extractor(batch["image"].to(self.device, non_blocking=True))

    def inspect(self, features: Tensor, task: int | None = None) -> Inspection:
        """Score features (B, h, w, D) by the expert of `task`, or by those the router picks."""
        distances = self.router.distances(self.image_features(features))
        if task is not None:
            chosen = torch.full((len(features),), task, device=features.device)
        elif self.routes:
            chosen = self.router.choose(distances)
        else:
            chosen = torch.zeros(len(features), dtype=torch.long, device=features.device)
        patch_scores = self.patch_scores(features, chosen)
        novelty_distance = self.novelty_distances(features, distances, chosen)
        score = self.image_score(patch_scores)
        return Inspection(score, patch_scores, chosen, distances, novelty_distance)

    def novelty_distances(self, features: Tensor, distances: Tensor, chosen: Tensor) -> Tensor:
        """Distances to good images of the chosen task and of the nearest ones (B, T).

        Infinite for the others: each costs a product with a matrix of its own, and an image that
        is unlike the nearest products is unlike all. NaN where the tasks were not finished.
        """
        tasks = self.router.tasks
        if self.novelty.tasks != tasks:
            return torch.full_like(distances, torch.nan)
        relevant = torch.tensor(tasks, device=chosen.device) == chosen[:, None]
        nearest = distances.topk(min(NEAREST, len(tasks)), largest=False).indices
        relevant = relevant.scatter(1, nearest, True)
        patches = sample_patches(features)
        images, columns = relevant.nonzero(as_tuple=True)
        found = patches.new_empty(len(images), patches.shape[1])
        for column in columns.unique().tolist():  # a matrix of each task, for all its images
            places = (columns == column).nonzero()[:, 0]
            found[places] = self.novelty.distances_to(tasks[column], patches[images[places]])
        result = torch.full_like(distances, torch.inf)
        result[images, columns] = ordinary_quantile(found)
        return result

    def patch_scores(self, features: Tensor, task: int | Tensor) -> Tensor:
        """Scores (B, h, w) of features (B, h, w, D) by one expert or by one for each image."""
        return self.patch_score(self.flow, self.position(features), task, self._bank_distance)

    def set_patch_score(self, score: PatchScore) -> None:
        """Score patches by `score` from now on; one that needs a memory bank has to find it."""
        self.patch_score = score
        self._search_banks = TensorCache(self._search_bank, size=CACHED_BANKS)

    @property
    def has_banks(self) -> bool:
        """Whether the patch score compares with a memory bank of each task."""
        return isinstance(self.patch_score, BankScore)

    def bank(self, task: int) -> MemoryBank:
        """The memory bank of a task, an empty one where there is none yet."""
        if str(task) not in self.banks:
            bank = MemoryBank(self.extractor.dim, self.bank_size)
            self.banks[str(task)] = bank.to(self.device)
        return cast(MemoryBank, self.banks[str(task)])

    def search_bank(self, task: int) -> Tensor:
        """The vectors (M, C) that a task's patches are compared with.

        Computed from the bank once, and again when the bank or the expert has changed.
        """
        expert = self.flow.base_parameters() + self.flow.expert_parameters(task)
        return self._search_banks.get(task, [self.bank(task).latents, *expert])

    def _search_bank(self, task: int) -> Tensor:
        score, latents = cast(BankScore, self.patch_score), self.bank(task).latents
        # autocast cannot concatenate half precision
        with torch.autocast(latents.device.type, enabled=False):
            return score.expand(self.flow, latents, task)

    def _bank_distance(self, latent: Tensor, task: int | Tensor) -> Tensor:
        if not isinstance(task, Tensor):
            return projection_distance(latent, self.search_bank(task))
        scores = latent.new_empty(latent.shape[:-1])
        for index in task.unique().tolist():
            rows = (task == index).to(latent.device)
            scores[rows] = projection_distance(latent[rows], self.search_bank(index))
        return scores

    @property
    def regions(self) -> int | None:
        """Regions of an image that the router sees; None if it sees the whole."""
        return self.image_features.regions

    def add_prototypes(self, task: int) -> tuple[TaskPrototype, TaskPrototype]:
        """Add empty prototypes of a task: for the router, and for novelty."""
        routed = TaskPrototype(self.extractor.dim, self.regions).to(self.device)
        ordinary = TaskPrototype(self.extractor.dim).to(self.device)
        self.router.add_prototype(task, routed)
        self.novelty.add_prototype(task, ordinary)
        return routed, ordinary
