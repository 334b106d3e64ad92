"""What each part of a score says of the same patches, apart, and with other draws of its banks.

For `parts`, `image-score` and `draws` of `benchmarks.ablation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.harness.plans import Recipe
from benchmarks.harness.products import BATCH, evenly
from benchmarks.harness.study import Study
from moleflow_pl._internal.seeding import derive_generator
from moleflow_pl.metrics.image import auroc
from moleflow_pl.model.build import build_scores
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.model.task_statistics import TaskStatistics
from moleflow_pl.scoring.bank_search import nearest_places, soft_projection_distance
from moleflow_pl.scoring.memory_bank import MemoryBank

NEAREST = ", the nearest"  # after a part's name: the distance to the nearest vector of its banks
DRAW_IMAGES = 150  # test images of a product that every draw of its banks scores


@dataclass(frozen=True)
class PartMaps:
    """Oracle scores of a product's patches, by the name of the part.

    Attributes:
        test: Of the test images (N, h, w).
        good: Of the calibration images (M, h, w).
    """

    test: dict[str, Tensor]
    good: dict[str, Tensor]

    def total(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The sums of parts over test and calibration images, each over its median over the latter.

        That is how a score of several parts is made; of a single one the unit changes.
        """
        scales = {name: self.good[name].median() for name in names}
        test, good = (
            torch.stack([maps[name] / scales[name] for name in names]).sum(0)
            for maps in (self.test, self.good)
        )
        return test, good


class BothSearches:
    """Searches a task's memory banks as the model does, and keeps the nearest distances too.

    Args:
        inspector: The model.

    Attributes:
        nearest: Sums (B, h, w) over the banks of each part of the distances to the nearest vector.
    """

    def __init__(self, inspector: Inspector) -> None:
        self.inspector = inspector
        self.nearest: dict[str, Tensor] = {}

    def __call__(self, name: str, vectors: Tensor, task: Any, bank: int) -> Tensor:
        """Distances (B, h, w) of vectors (B, h, w, C), as `Inspector.part_scores` asks for."""
        stored = self.inspector.search_banks(task)[name][bank]
        soft, nearest = [], []
        for rows in vectors.flatten(1, 2):
            near = stored[nearest_places(rows, stored)]
            soft.append(soft_projection_distance(rows[None], near[None])[0])
            nearest.append((rows - near[:, 0]).norm(dim=-1))
        shape = vectors.shape[:-1]
        self.nearest[name] = self.nearest.get(name, 0) + torch.stack(nearest).reshape(shape)
        return torch.stack(soft).reshape(shape)


def scored_apart(inspector: Inspector, features: Tensor, task: int) -> Iterator[dict[str, Tensor]]:
    """Scores (B, h, w) of batches of features by every part, and by the nearest vectors."""
    for part in features.split(BATCH):
        search = BothSearches(inspector)
        scores = inspector.part_scores(part, inspector.joined(part), task, search)
        yield scores | {name + NEAREST: values for name, values in search.nearest.items()}


def part_maps(study: Study, recipe: Recipe, seed: int, product: str) -> PartMaps:
    """Scores of a product's patches by every part, of a model that has learned all products."""

    def compute() -> dict[str, Tensor]:
        study.learn(recipe, seed, study.products)
        inspector, found = study.load(recipe, seed, study.products).inspector, {}
        inspector.set_patch_scores(build_scores(["norm", *study.backbone.parts]))
        task = study.products.index(product)
        kinds = {"test": study.features(product).test, "good": study.split(recipe, product)[1]}
        with torch.inference_mode():
            for kind, features in kinds.items():
                batches = list(scored_apart(inspector, features, task))
                for name in batches[0]:
                    found[f"{kind}/{name}"] = torch.cat([batch[name] for batch in batches])
        return found

    key = f"{study.run_key(recipe, seed, study.products)}-{product}-parts"
    tensors = study.cached_tensors(key, compute)
    test, good = (
        {name.removeprefix(kind): maps for name, maps in tensors.items() if name.startswith(kind)}
        for kind in ("test/", "good/")
    )
    return PartMaps(test, good)


def aurocs_of_draws(
    study: Study, recipe: Recipe, seed: int, product: str, draws: int
) -> list[float]:
    """Image AUROC with memory banks that other seeds choose of the same patches.

    Flow and scales stay those of the model. Draw 0 is its own where its seed is 0.
    """

    def compute() -> dict[str, Any]:
        study.learn(recipe, seed, study.products)
        inspector = study.load(recipe, seed, study.products).inspector
        features, task = study.features(product), study.products.index(product)
        places = evenly(range(len(features.test)), DRAW_IMAGES)
        labels = features.defective[places].long()
        candidates = BankCandidates(inspector, task, product, study.split(recipe, product)[0])
        found = []
        with torch.inference_mode():
            for draw in range(draws):
                candidates.fill(draw)
                parts = features.test[places].split(BATCH)
                patches = torch.cat([inspector.patch_scores(part, task) for part in parts])
                found.append(auroc(inspector.image_score(patches), labels))
        return {"image_auroc": found}

    key = f"{study.run_key(recipe, seed, study.products)}-{product}-{draws}-draws"
    return study.cached(key, compute)["image_auroc"]


class BankCandidates:
    """What the memory banks of a learned task are chosen from.

    Args:
        inspector: The model.
        task: The task.
        name: Its name.
        features: Features (N, h, w, W) of its training images.
    """

    def __init__(self, inspector: Inspector, task: int, name: str, features: Tensor) -> None:
        self.memory, self.name = inspector.memory(task), name
        statistics = TaskStatistics(inspector, task, name, seed=0)
        with torch.no_grad():
            for part in features.split(BATCH):
                statistics.update(part)
        self.rows, self.widths = statistics.candidates, statistics.widths

    def fill(self, seed: int) -> None:
        """Choose the vectors of every bank as a run of that seed does."""
        columns = iter(self.rows.split([w for part in self.widths.values() for w in part], 1))
        for part, banks in self.memory.items():
            for index, bank in enumerate(cast(Iterable[MemoryBank], banks)):
                generator = derive_generator(seed, self.name, "bank", part, index)
                bank.fill(next(columns), generator)
