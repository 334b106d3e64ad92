"""A task's way through a model: its expert, what is fitted before and after its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import gather
from moleflow_pl._internal.seeding import derive_generator, derive_seed
from moleflow_pl.features.patch_sample import PatchSample
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.novelty import DAMAGES, ordinary_quantile, sample_patches
from moleflow_pl.scoring.functional import patch_nll
from moleflow_pl.scoring.memory_bank import CANDIDATES
from moleflow_pl.scoring.patch_scores import BankScore
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule


class TaskLearner(Inspector):
    """Gives a task its expert, and keeps what a learned task leaves behind."""

    schedule: TaskSchedule
    seed: int

    def begin_task(self, task: int) -> None:
        """Give `task` its expert, unless it has one; its random numbers are its own."""
        if task in self.flow.tasks:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, self.schedule.tasks[task].name, "expert"))
            self.flow.add_task(task)

    def prepare_task(self, task: int, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit what an expert takes from its product's statistics before its training begins.

        Args:
            task: The task.
            batches: Its training images or features, each once; on several ranks, their shares.
        """
        adapter = self.flow.adapter_of(task)
        if adapter is None or not adapter.needs_statistics:
            return
        patches = FeatureStatistics(self.extractor.dim)
        for batch in batches:
            features = self.features(self.transfer_batch_to_device(batch, self.device, 0))
            patches.update(self.position(features))
        adapter.fit(patches.gathered())

    def finish_task(self, task: int, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit what a learned task leaves behind: its prototype, and the first one's reference.

        Where latents are kept, its bank too.

        Args:
            task: The task.
            batches: Its training images or features, each once and in order; on several ranks,
                their shares.
        """
        images = FeatureStatistics(self.extractor.dim, self.regions)
        patches = FeatureStatistics(self.extractor.dim)
        ordinary = FeatureStatistics(self.extractor.dim)
        means = torch.zeros(self.extractor.dim, dtype=torch.float64)
        name = self.schedule.tasks[task].name
        many = CANDIDATES * self.bank_size
        latents = PatchSample(self.extractor.dim, many, self.seed, name, "latents")
        with torch.no_grad():
            for batch in batches:
                features = self.features(self.transfer_batch_to_device(batch, self.device, 0))
                images.update(self.image_features(features))
                ordinary.update(sample_patches(features))
                positioned = self.position(features)
                # in float64 on the CPU: some devices have none
                means += positioned.mean((1, 2)).cpu().double().sum(0)
                if task == 0:
                    patches.update(positioned)
                if isinstance(self.patch_score, BankScore):
                    latents.update(self.patch_score.encode(self.flow, positioned, task))
        images, patches, ordinary = images.gathered(), patches.gathered(), ordinary.gathered()
        means = torch.stack(gather(means)).sum(0)
        if self.keeps_latents:
            generator = derive_generator(self.seed, name, "bank")
            bank = self._bank(task)
            bank.fill(latents.gathered().rows, generator)
            # of nearly equal latents another machine may have chosen another
            bank.latents.copy_(gather(bank.latents.cpu())[0])
        for prototype, seen in zip(self.add_prototypes(task), (images, ordinary), strict=True):
            prototype.set(seen)
        if task == 0:
            self.flow.set_reference(patches.mean, patches.std)
        shift = means / images.count - self.flow.reference_mean.cpu().double()
        drift = (shift / self.flow.reference_std.cpu().double()).abs().mean().item()
        self.schedule.tasks[task].drift = drift

    def calibrate_task(
        self,
        task: int,
        batches: Iterable[Mapping[str, Any]],
        false_alarm_rate: float,
        pictures: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Keep what a finished task's expert says of good images that it has not seen.

        Args:
            task: The task.
            batches: Its held-out images or features, each once; on several ranks, all on each.
            false_alarm_rate: Share of good images that may be called defective.
            pictures: The same images as such, to be damaged; without them nothing is unknown.
        """
        found = Calibration(false_alarm_rate=false_alarm_rate)
        column = self.router.tasks.index(task)
        with torch.no_grad():
            for batch in batches:
                features = self.features(self.transfer_batch_to_device(batch, self.device, 0))
                inspection = self.inspect(features, task)
                distances = inspection.novelty_distance[:, column]
                products = batch.get("product", [self.schedule.tasks[task].name] * len(features))
                found.add(inspection.score, inspection.patch_scores, distances, products)
            for batch in pictures:
                images = self.transfer_batch_to_device(batch, self.device, 0)["image"]
                found.damaged += self._damaged(task, images).tolist()
        self.schedule.tasks[task].calibration = found

    def _damaged(self, task: int, images: Tensor) -> Tensor:
        """How far damage takes images (B, 3, H, W) from a task's good ones, at worst (B,)."""
        patches = [sample_patches(self.extractor(damage(images))) for damage in DAMAGES]
        found = [ordinary_quantile(self.novelty.distances_to(task, some)) for some in patches]
        return torch.stack(found).amax(0)

    def training_nll(self, batch: Mapping[str, Any], task: int) -> Tensor:
        """NLL of the patches that a step sees: of all (B, h, w), or of those drawn (B, 1, n)."""
        return patch_nll(*self.flow(self._drawn(batch), task))

    def _drawn(self, batch: Mapping[str, Any]) -> Tensor:
        """Features with position: of all patches (B, h, w, D), or of those drawn (B, 1, n, D)."""
        features = self.features(batch)
        if "patches" not in batch:
            return self.position(features)
        patches = batch["patches"]
        if features.ndim == 4:  # fresh from the backbone: none is chosen yet
            grid = tuple(features.shape[1:3])
            rows = torch.arange(len(features), device=features.device)[:, None]
            features = features.flatten(1, 2)[rows, patches]
        else:
            grid = batch["grid"]
        return self.position.at(features, patches, grid)[:, None]
