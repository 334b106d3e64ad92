"""What one pass over a task's training images collects for its prototypes and its bank."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import gather
from moleflow_pl.features.patch_sample import PatchSample
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.novelty import sample_patches
from moleflow_pl.scoring.memory_bank import CANDIDATES, to_half_clamped
from moleflow_pl.scoring.patch_scores import BankScore


class TaskStatistics:
    """Statistics of a learned task's training images, batch by batch, exact over ranks.

    Args:
        inspector: The model, which has the task's expert.
        task: The task.
        name: Its name; what the bank chooses among depends on it and on the seed alone.
        seed: Seed of the run.

    Attributes:
        images: Of the image features that the router sees.
        ordinary: Of the sampled patches that novelty is measured by.
        patches: Of all patches with position, for the first task alone.
        latents: Candidates of the memory bank, in half precision.
        mean_features: Sum of the images' mean features (D,), float64.
    """

    def __init__(self, inspector: Inspector, task: int, name: str, seed: int) -> None:
        dim = inspector.extractor.dim
        self.inspector, self.task = inspector, task
        self.images = FeatureStatistics(dim, inspector.regions)
        self.ordinary = FeatureStatistics(dim)
        self.patches = FeatureStatistics(dim)
        self.latents = PatchSample(dim, max(CANDIDATES, inspector.bank_size), seed, name, "latents")
        self.mean_features = torch.zeros(dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add the features (B, h, w, D) of a batch."""
        inspector = self.inspector
        self.images.update(inspector.image_features(features))
        self.ordinary.update(sample_patches(features))
        positioned = inspector.position(features)
        # in float64 on the CPU: some devices have none
        self.mean_features += positioned.mean((1, 2)).cpu().double().sum(0)
        if self.task == 0:
            self.patches.update(positioned)
        if isinstance(inspector.patch_score, BankScore):
            latents = inspector.patch_score.encode(inspector.flow, positioned, self.task)
            self.latents.update(to_half_clamped(latents))  # as in the bank, and half the memory

    def gather(self) -> None:
        """Add what the other ranks have seen; the same on each from now on."""
        self.images, self.patches = self.images.gathered(), self.patches.gathered()
        self.ordinary, self.latents = self.ordinary.gathered(), self.latents.gathered()
        self.mean_features = torch.stack(gather(self.mean_features)).sum(0)

    def drift(self) -> float:
        """How far the mean feature is from the first task's, in its standard deviations."""
        flow = self.inspector.flow
        shift = self.mean_features / self.images.count - flow.reference_mean.cpu().double()
        return (shift / flow.reference_std.cpu().double()).abs().mean().item()
