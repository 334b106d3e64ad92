"""What a model says of images: the way from features to scores, and to the product they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.features.position import NoPosition, PositionalGrid
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.routing.image_features import ImageFeatures
from moleflow_pl.routing.novelty import ordinary_quantile, sample_patches
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.router import NEAREST, PrototypeRouter
from moleflow_pl.scoring.memory_bank import MemoryBank, nearest_distance
from moleflow_pl.scoring.patch_scores import PATCH_SCORES, BankScore, PatchScore

COMPARED = 128  # products whose kept latents are ready: 6 MB each at 384 channels


@dataclass
class Inspection:
    """What the model says of a batch of images.

    Attributes:
        score: Anomaly score of each image (B,).
        patch_scores: Score of each patch (B, h, w): in nats where it is the NLL, else a distance
            in the latent space.
        task: The task each image was sent to (B,).
        distances: Router distances (B, T), in the order of `router.tasks`.
        novelty_distance: How far the most ordinary patches of each image are from those of
            good images of the tasks that the router finds nearest (B, T), in the same order,
            infinite for the others.
    """

    score: Tensor
    patch_scores: Tensor
    task: Tensor
    distances: Tensor
    novelty_distance: Tensor


class Inspector(LightningModule):
    """Scores images by the experts of the products they show.

    Its parts are made by `MoLEFlow`, whose arguments say what they are.
    """

    extractor: PatchExtractor
    position: PositionalGrid | NoPosition
    flow: MoLESpatialAwareNF
    routes: bool
    router: PrototypeRouter
    novelty: PrototypeRouter
    patch_score: PatchScore
    banks: nn.ModuleDict
    _compared: TensorCache[Tensor]
    bank_size: int
    image_features: ImageFeatures
    image_score: Callable[[Tensor], Tensor]

    def forward(self, images: Tensor) -> Inspection:
        """Score images (B, 3, H, W), uint8 or float in [0, 1], of any known products."""
        return self.inspect(self.extractor(images))

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
        score = self.image_score(patch_scores)
        novelty_distance = self.novelty_among(features, distances, chosen)
        return Inspection(score, patch_scores, chosen, distances, novelty_distance)

    def novelty_among(self, features: Tensor, distances: Tensor, chosen: Tensor) -> Tensor:
        """Distances to good images of the chosen task and of the nearest ones (B, T).

        Infinite for the others: each costs a product with its own matrix, and an image that is
        like none of the nearest products is like none. NaN where the tasks were not finished.
        """
        tasks = self.router.tasks
        if self.novelty.tasks != tasks:
            return torch.full_like(distances, torch.nan)
        asked = torch.tensor(tasks, device=chosen.device) == chosen[:, None]
        near = distances.topk(min(NEAREST, len(tasks)), largest=False).indices
        asked = asked.scatter(1, near, True)
        patches = sample_patches(features)
        found = torch.full_like(distances, torch.inf)
        for column in asked.any(0).nonzero()[:, 0].tolist():
            rows = asked[:, column]
            distance = self.novelty.distances_to(tasks[column], patches[rows])
            found[rows, column] = ordinary_quantile(distance)
        return found

    def patch_scores(self, features: Tensor, task: int | Tensor) -> Tensor:
        """Scores (B, h, w) of features (B, h, w, D) by one expert or by one for each image."""
        return self.patch_score(self.flow, self.position(features), task, self._nearest)

    def score_by(self, score: str) -> None:
        """Score patches by that from now on; one that keeps latents has to find its own."""
        self.patch_score = PATCH_SCORES[score]()
        self._compared = TensorCache(self._made_of_kept, size=COMPARED)

    @property
    def keeps_latents(self) -> bool:
        """Whether the score needs latents of each product."""
        return isinstance(self.patch_score, BankScore)

    def _nearest(self, latent: Tensor, task: int | Tensor) -> Tensor:
        if not isinstance(task, Tensor):
            return nearest_distance(latent, self.kept_latents(task))
        scores = latent.new_empty(latent.shape[:-1])
        for one in task.unique().tolist():
            rows = (task == one).to(latent.device)
            scores[rows] = nearest_distance(latent[rows], self.kept_latents(one))
        return scores

    def kept_latents(self, task: int) -> Tensor:
        """What a task's patches are compared with, (M, C).

        What kept latents become is made once, and stays while they and the expert do.
        """
        expert = self.flow.base_parameters() + self.flow.expert_parameters(task)
        return self._compared.get(task, [self._bank(task).latents, *expert])

    def _made_of_kept(self, task: int) -> Tensor:
        score, latents = cast(BankScore, self.patch_score), self._bank(task).latents
        with torch.autocast(latents.device.type, enabled=False):  # which joins no half precision
            return score.expand(self.flow, latents, task)

    def _bank(self, task: int) -> Any:
        if str(task) not in self.banks:
            self.banks[str(task)] = MemoryBank(self.extractor.dim, self.bank_size).to(self.device)
        return self.banks[str(task)]

    @property
    def regions(self) -> int | None:
        """Regions of an image that the router looks at, if it does."""
        return self.image_features.regions

    def add_prototypes(self, task: int) -> tuple[TaskPrototype, TaskPrototype]:
        """Empty prototypes of a task: for the router, and of what is ordinary."""
        routed = TaskPrototype(self.extractor.dim, self.regions).to(self.device)
        ordinary = TaskPrototype(self.extractor.dim).to(self.device)
        self.router.add_prototype(task, routed)
        self.novelty.add_prototype(task, ordinary)
        return routed, ordinary

    def features(self, batch: Mapping[str, Any]) -> Tensor:
        """Features (B, h, w, D) of a batch, stored or fresh."""
        return batch["features"] if "features" in batch else self.extractor(batch["image"])
