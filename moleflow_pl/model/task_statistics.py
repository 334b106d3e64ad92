"""Statistics for prototypes and memory banks, from one pass over a task's training images."""

from __future__ import annotations

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import gather
from moleflow_pl.features.patch_sample import PatchSample
from moleflow_pl.features.region_of_interest import rows_of
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.novelty import sample_patches
from moleflow_pl.scoring.memory_bank import CANDIDATE_BYTES, to_half_clamped


class TaskStatistics:
    """Statistics of a trained task's training images, batch by batch, exact over ranks.

    Args:
        inspector: The model, which has the task's expert.
        task: The task.
        name: Its name; the sampled candidates of the banks depend on it and the seed alone.
        seed: Seed of the run.

    Attributes:
        images: Statistics of the image features, for the router.
        ordinary: Statistics of the sampled patches, for novelty.
        patches: Statistics of all patches with position, of the first task alone.
        widths: Channels of each bank's vectors, by the part of the score.
        count: Patches of all images.
        mean_features: Sum of the images' mean features (D,), float64.
    """

    def __init__(self, inspector: Inspector, task: int, name: str, seed: int) -> None:
        dim = inspector.extractor.dim
        self.inspector, self.task, self.name, self.seed = inspector, task, name, seed
        self.images = FeatureStatistics(dim, inspector.regions)
        self.ordinary = FeatureStatistics(dim)
        self.patches = FeatureStatistics(dim)
        self.sample: PatchSample | None = None
        self.widths: dict[str, list[int]] = {name: [] for name in inspector.score.parts}
        self.count = 0
        self.mean_features = torch.zeros(dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add the features (B, h, w, W) of a batch."""
        inspector, region = self.inspector, self.inspector.interest.for_task(self.task)
        joined = inspector.joined(features)
        self.images.update(inspector.image_features(joined, region))
        self.ordinary.update(sample_patches(joined, region))
        given = inspector.score_input(features, joined)
        patches = rows_of(given.joined, region)
        # in float64, on the CPU since some devices lack it
        self.mean_features += patches.mean((1, 2)).cpu().double().sum(0)
        if self.task == 0:
            self.patches.update(patches)
        self.count += patches[..., 0].numel()
        vectors = {
            name: [rows_of(v, region) for v in score.encode(inspector.flow, given, self.task)]
            for name, score in inspector.score.with_banks.items()
        }
        if vectors:
            self._add_candidates(vectors)

    @property
    def candidates(self) -> Tensor:
        """Candidate vectors of all memory banks, concatenated (N, C), in half precision."""
        return torch.empty(0, 0) if self.sample is None else self.sample.rows

    @property
    def sources(self) -> Tensor:
        """The training image (N,) of each of `candidates`."""
        return torch.empty(0, dtype=torch.int32) if self.sample is None else self.sample.sources

    def _add_candidates(self, vectors: dict[str, list[Tensor]]) -> None:
        self.widths |= {name: [v.shape[-1] for v in parts] for name, parts in vectors.items()}
        # side by side: all banks choose among the same patches
        rows = torch.cat([to_half_clamped(v) for parts in vectors.values() for v in parts], -1)
        if self.sample is None:
            channels = rows.shape[-1]
            most = CANDIDATE_BYTES // (rows.element_size() * channels)
            self.sample = PatchSample(channels, most, self.seed, self.name, "candidates")
        self.sample.update(rows)

    def gather(self) -> None:
        """Merge the statistics of all ranks; every rank has the same afterwards."""
        self.images, self.patches = self.images.gathered(), self.patches.gathered()
        self.ordinary = self.ordinary.gathered()
        if self.sample is not None:
            self.sample = self.sample.gathered()
        self.count = sum(gather(self.count))
        self.mean_features = torch.stack(gather(self.mean_features)).sum(0)

    def drift(self) -> float:
        """Distance of the mean feature to the first task's, in the latter's standard deviation."""
        flow = self.inspector.flow
        shift = self.mean_features / self.images.count - flow.reference_mean.cpu().double()
        return (shift / flow.reference_std.cpu().double()).abs().mean().item()
