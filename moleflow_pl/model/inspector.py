"""`Inspector`: one module from images to anomaly scores and to the product they show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl.data.batches import Batch, PredictBatch
from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.features.position import NoPosition, PositionalGrid
from moleflow_pl.features.region_of_interest import RegionsOfInterest, scores_inside
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.model.arguments import ModelArguments
from moleflow_pl.routing.distances import measure_distances
from moleflow_pl.routing.image_features import ImageFeatures, RegionMeans
from moleflow_pl.routing.novelty import ordinary_quantile, sample_patches
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.router import NEAREST, PrototypeRouter
from moleflow_pl.scoring.bank_search import BankVectors, projection_distance
from moleflow_pl.scoring.memory_bank import MemoryBank, to_half_clamped
from moleflow_pl.scoring.patch_scores import BankScore, PatchFeatures, PatchScore
from moleflow_pl.scoring.score_parts import PartMemory, PartSearch, ScoreParts
from moleflow_pl.tasks.schedule import TaskSchedule

CACHED_BANKS = 64  # tasks for which the vectors that banks do not store are cached


@dataclass
class Inspection:
    """The model's results for a batch of images.

    Attributes:
        score: Anomaly score of each image (B,).
        patch_scores: Score of each patch (B, h, w): in nats for the NLL, else a distance in the
            latent space.
        task: The task whose expert scored each image (B,).
        distances: Router distances (B, T), in the order of `router.tasks`.
        novelty_distance: Distance of each image's most ordinary patches to the good images of the
            tasks nearest to it (B, T), in the same order; infinite for other tasks.
    """

    score: Tensor
    patch_scores: Tensor
    task: Tensor
    distances: Tensor
    novelty_distance: Tensor


class Inspector(nn.Module):
    """Scores images with the experts of the products they show.

    Build one with `build_inspector`, or from your own parts; only the former can be saved, because
    a checkpoint holds arguments. It works without Lightning; `MoLEFlow` owns one and trains it.

    Args:
        extractor: Turns images into patch features.
        flow: The shared flow and its experts, as wide as the features.
        router: Finds the task of an image.
        patch_scores: Score patches; several are added, each divided by its scale.
        image_score: Patch scores (B, h, w) -> image scores (B,).
        position: Adds the position code; none by default.
        image_features: Input of the router; by default the mean of each region.
        bank_mb: Largest size of a task's memory banks together, where the score needs them.
        routes: Whether the router chooses the task of an image; otherwise it is the first task.

    Attributes:
        schedule: The tasks, with their calibrations.
        novelty_router: Measures distances to each task's good images, independent of other tasks.
        interest: The region of interest of each task.

    Shape: images (B, 3, H, W), uint8 or float in [0, 1] -> `Inspection`.
    """

    def __init__(
        self,
        extractor: PatchExtractor,
        flow: MoLESpatialAwareNF,
        router: PrototypeRouter,
        patch_scores: Sequence[PatchScore],
        image_score: Callable[[Tensor], Tensor],
        position: PositionalGrid | NoPosition | None = None,
        image_features: ImageFeatures | None = None,
        bank_mb: float = 4.0,
        routes: bool = True,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.position = NoPosition() if position is None else position
        self.flow = flow
        self.router = router
        self.novelty_router = PrototypeRouter("shrunk")
        self.banks = nn.ModuleDict()
        self.interest = RegionsOfInterest()
        self.image_score = image_score
        self.image_features = RegionMeans() if image_features is None else image_features
        self.bank_mb = bank_mb
        self.routes = routes
        self.schedule = TaskSchedule()
        self.arguments: ModelArguments | None = None  # those that `build_inspector` built it from
        self.set_patch_scores(patch_scores)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.flow.reference_mean.device

    def forward(self, images: Tensor) -> Inspection:
        """Score images of any known product."""
        return self.inspect(self.extractor(images))

    def features(self, batch: Batch | PredictBatch) -> Tensor:
        """Features (B, h, w, W) of a batch, stored or computed from its images."""
        stored = batch.get("features")
        if isinstance(stored, Tensor):
            return stored.to(self.device, non_blocking=True)
        return self.extractor(batch["image"].to(self.device, non_blocking=True))

    def joined(self, features: Tensor) -> Tensor:
        """Join the groups of features (B, h, w, W) for router and flow, (B, h, w, D)."""
        return self.extractor.groups.joined(features)

    def inspect(self, features: Tensor, task: int | None = None) -> Inspection:
        """Score features (B, h, w, W) with the expert of `task`, or those the router chooses.

        Raises:
            CheckpointError: no task is learned yet.
        """
        if not self.router.tasks:
            self.schedule.require_learned()
        joined = self.joined(features)
        image_features, distances = self.measure_distances(joined)
        if task is not None:
            chosen = torch.full((len(features),), task, device=features.device)
        elif self.routes:
            chosen = self.router.choose(distances, image_features)
        else:
            chosen = torch.zeros(len(features), dtype=torch.long, device=features.device)
        patch_scores = self._total(self.part_scores(features, joined, chosen), chosen)
        novelty_distance = self.novelty_distances(joined, distances, chosen)
        tasks, places = chosen.unique(return_inverse=True)
        regions = [self.interest.for_task(task) for task in tasks.tolist()]
        score, patch_scores = scores_inside(patch_scores, self.image_score, regions, places)
        return Inspection(score, patch_scores, chosen, distances, novelty_distance)

    def measure_distances(self, joined: Tensor) -> tuple[Tensor, Tensor]:
        """Image features of joined features (B, h, w, D), and router distances (B, T)."""
        regions = self.interest.for_tasks(self.router.tasks)
        return measure_distances(self.router, self.image_features, joined, regions)

    def novelty_distances(self, features: Tensor, distances: Tensor, chosen: Tensor) -> Tensor:
        """Distances (B, T) of joined features to good images of the chosen and the nearest tasks.

        Infinite for other tasks: each would cost a matrix product, and an image far from the
        nearest products is far from all. NaN if a task was not finished.
        """
        tasks = self.router.tasks
        if self.novelty_router.tasks != tasks:
            return torch.full_like(distances, torch.nan)
        nearest = distances.topk(min(NEAREST, len(tasks)), largest=False).indices.tolist()
        images: defaultdict[int, list[int]] = defaultdict(list)  # by the columns of their tasks
        for image, (task, columns) in enumerate(zip(chosen.tolist(), nearest, strict=True)):
            for column in {*columns, *([tasks.index(task)] if task in tasks else [])}:
                images[column].append(image)
        everywhere, distances_by_task = sample_patches(features), []
        for column, these in images.items():  # a matrix of each task
            region = self.interest.for_task(tasks[column])
            patches = everywhere if len(these) == len(everywhere) else everywhere[these]
            if region is not None:
                patches = sample_patches(features[these], region)
            distances_by_task.append(self.novelty_router.distances_to(tasks[column], patches))
        result = torch.full_like(distances, torch.inf)
        rows = [image for these in images.values() for image in these]
        result[rows, [column for column, these in images.items() for _ in these]] = (
            ordinary_quantile(torch.cat(distances_by_task))
        )
        return result

    def patch_scores(
        self, features: Tensor, task: int | Tensor, search: PartSearch | None = None
    ) -> Tensor:
        """Scores (B, h, w) of features (B, h, w, W) by one expert, or by one for each image."""
        return self._total(self.part_scores(features, self.joined(features), task, search), task)

    def part_scores(
        self,
        features: Tensor,
        joined: Tensor,
        task: int | Tensor,
        search: PartSearch | None = None,
    ) -> dict[str, Tensor]:
        """Scores (B, h, w) of each part, in its own unit.

        Args:
            features: Features (B, h, w, W).
            joined: The same after `joined` (B, h, w, D).
            task: One task, or one for each image (B,).
            search: Searches memory banks; by default among all their vectors.
        """
        given = self.score_input(features, joined)
        return self.score.part_scores(self.flow, given, task, search or self._bank_distance)

    def score_input(self, features: Tensor, joined: Tensor) -> PatchFeatures:
        """The input of patch scores, from the arguments of `part_scores`."""
        groups = partial(self.extractor.groups.split, features)
        return PatchFeatures(self.position(joined), groups)

    def _total(self, scores: dict[str, Tensor], task: int | Tensor) -> Tensor:
        return self.score.total(scores, lambda name: self._scale(name, task))

    def _scale(self, name: str, task: int | Tensor) -> Tensor:
        if not isinstance(task, Tensor):
            return self.memory(task)[name].scale
        tasks, places = task.unique(return_inverse=True)
        return torch.stack([self.memory(t)[name].scale for t in tasks.tolist()])[places]

    def set_patch_scores(self, scores: Sequence[PatchScore]) -> None:
        """Replace the patch scores; the tasks must have the memory banks that the new ones need."""
        self.score = ScoreParts(scores)
        self._search_banks = TensorCache(self._search_bank, size=CACHED_BANKS)

    def memory(self, task: int) -> Mapping[str, PartMemory]:
        """Banks and scale that a finished task stores for each part of its score, by name.

        Raises:
            KeyError: the task was not finished, or its score stores nothing.
        """
        if str(task) not in self.banks:
            raise KeyError(f"task {task} has no memory banks and scales: finish the task first")
        return cast(Mapping[str, PartMemory], self.banks[str(task)])

    def make_memory(self, task: int, shapes: Mapping[str, Sequence[Sequence[int]]]) -> None:
        """Create empty memory banks for a task.

        Args:
            task: The task.
            shapes: Number of vectors and of channels (M, C) of each bank, by part of the score.
        """
        parts = {
            name: PartMemory([MemoryBank(channels, size) for size, channels in banks])
            for name, banks in shapes.items()
        }
        self.banks[str(task)] = nn.ModuleDict(parts).to(self.device)

    def search_banks(self, task: int) -> dict[str, list[BankVectors]]:
        """The vectors to search for a task's patches, by part of the score.

        What the banks do not store is cached; it is recomputed when a bank or the expert has
        changed.
        """
        expert = self.flow.base_parameters() + self.flow.expert_parameters(task)
        return self._search_banks.get(task, [*self.banks[str(task)].buffers(), *expert])

    def _search_bank(self, task: int) -> dict[str, list[BankVectors]]:
        memory = self.memory(task)
        return {
            name: [self._vectors(score, bank, task) for bank in cast(Any, memory[name])]
            for name, score in self.score.with_banks.items()
        }

    def _vectors(self, score: BankScore, bank: MemoryBank, task: int) -> BankVectors:
        derived = score.derive_channels(self.flow, bank.vectors, task)
        derived = None if derived is None else to_half_clamped(derived)
        return BankVectors(bank.values, bank.factors, derived)

    def _bank_distance(self, name: str, vectors: Tensor, task: int | Tensor, bank: int) -> Tensor:
        if not isinstance(task, Tensor):
            counted = self.interest.places(task)
            return projection_distance(vectors, self.search_banks(task)[name][bank], counted)
        scores = vectors.new_empty(vectors.shape[:-1])
        for index in task.unique().tolist():
            rows = (task == index).to(vectors.device)
            scores[rows] = self._bank_distance(name, vectors[rows], index, bank)
        return scores

    def add_interest(self, task: int) -> None:
        """Add the region of interest of a new task: at first all patches count."""
        height, width, _ = self.extractor.shape
        self.interest.add(task, (height, width), self.device)

    @property
    def regions(self) -> int | None:
        """Number of regions in the router's input; None if it has none."""
        return self.image_features.regions

    def add_prototypes(self, task: int) -> tuple[TaskPrototype, TaskPrototype]:
        """Add two empty prototypes of a task, for the router and for novelty."""
        routed = TaskPrototype(self.extractor.dim, self.regions).to(self.device)
        ordinary = TaskPrototype(self.extractor.dim).to(self.device)
        self.router.add_prototype(task, routed)
        self.novelty_router.add_prototype(task, ordinary)
        return routed, ordinary
