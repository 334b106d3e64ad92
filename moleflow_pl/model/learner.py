"""What a task fits before, during and after the training of its expert."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import cast

import torch
from torch import Tensor

from moleflow_pl._internal.distributed import all_gather_rows, gather, interleave, rank_and_world
from moleflow_pl._internal.names import relative_names
from moleflow_pl._internal.seeding import derive_generator, derive_seed
from moleflow_pl.data.batches import Batch
from moleflow_pl.data.images import brightness_of
from moleflow_pl.features.region_of_interest import rows_of
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.model.leave_one_out import Origins, can_leave_out, scored_by_others
from moleflow_pl.model.task_statistics import TaskStatistics
from moleflow_pl.routing.novelty import (
    DAMAGES,
    damage_within,
    ordinary_quantile,
    sample_patches,
)
from moleflow_pl.scoring.functional import patch_nll
from moleflow_pl.scoring.memory_bank import MemoryBank, bank_size
from moleflow_pl.tasks.calibration import Calibration, TrainingScores

Batches = Iterable[Batch]

MOST_SHOWN = 12  # training images of a task whose patch scores are kept for the report


class TaskLearner:
    """Creates a task's expert, computes its loss, and fits its prototypes and memory banks.

    A plain object beside the inspector; it does not step the optimizer.

    Args:
        inspector: The model that learns.
        loss: Maps the NLL of a step's patches to a loss ().
        seed: Seed of the run; an expert's random numbers depend on it and on its task's name.

    Attributes:
        highest_training: Patch scores (h, w) of the highest-scoring training images, by task and
            path, for tasks that this process has learned.
    """

    def __init__(self, inspector: Inspector, loss: Callable[[Tensor], Tensor], seed: int) -> None:
        self.inspector = inspector
        self.loss_of = loss
        self.seed = seed
        self.highest_training: dict[int, dict[str, Tensor]] = {}

    def begin_task(self, task: int) -> None:
        """Create the expert of `task`, unless it has one."""
        flow, schedule = self.inspector.flow, self.inspector.schedule
        if task in flow.tasks:
            return
        self.inspector.add_interest(task)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, schedule.tasks[task].name, "expert"))
            flow.add_task(task)

    def prepare_task(self, task: int, batches: Batches) -> None:
        """Fit what an expert needs from patch statistics before its training begins.

        Args:
            task: The task.
            batches: Its training images or features, each once; on several ranks, their shares.
        """
        inspector = self.inspector
        adapter = inspector.flow.adapter_of(task)
        if adapter is None or not adapter.needs_statistics:
            return
        patches = FeatureStatistics(inspector.extractor.dim)
        for batch in batches:
            joined = inspector.joined(inspector.features(batch))
            patches.update(rows_of(inspector.position(joined), inspector.interest.for_task(task)))
        adapter.fit(patches.gathered())

    def loss(self, batch: Batch, task: int) -> tuple[Tensor, Tensor]:
        """The loss of a training step () and the NLL of its patches, in nats.

        DDP averages gradients over ranks, and each rank has the gradients of its own patches alone;
        the factor makes that average equal to the gradient of one process with all patches.
        """
        nll = all_gather_rows(self.training_nll(batch, task))
        return self.loss_of(nll) * rank_and_world()[1], nll.detach()

    def training_nll(self, batch: Batch, task: int) -> Tensor:
        """NLL of the patches in a step: of all (B, h, w), or of a sample (B, 1, n)."""
        return patch_nll(*self.inspector.flow(self._step_features(batch, task), task))

    def _step_features(self, batch: Batch, task: int) -> Tensor:
        """Features with position of the patches of interest, or of sampled patches (B, 1, n, D)."""
        features, position = self.inspector.features(batch), self.inspector.position
        joined = self.inspector.joined
        if "patches" not in batch:
            return rows_of(position(joined(features)), self.inspector.interest.for_task(task))
        patches = batch["patches"].to(features.device)
        if features.ndim == 4:  # from the backbone: not sampled yet
            grid = tuple(features.shape[1:3])
            rows = torch.arange(len(features), device=features.device)[:, None]
            features = features.flatten(1, 2)[rows, patches]
        else:
            grid = batch["grid"]
        return position.at_patches(joined(features), patches, grid)[:, None]

    @torch.no_grad()
    def finish_task(
        self, task: int, batches: Batches, calibration: Batches | None = None
    ) -> Origins:
        """Fit the prototypes, memory banks and score scales of a trained task.

        The first task also sets the reference mean and standard deviation.

        Args:
            task: The task.
            batches: Its training images or features, each once and in order; on several ranks,
                their shares.
            calibration: Its calibration images or features, for the scales; on several ranks, all
                on each. Without them, training images are used.

        Returns:
            The training image that each vector of its memory banks comes from.
        """
        inspector, name = self.inspector, self.inspector.schedule.tasks[task].name
        statistics = TaskStatistics(inspector, task, name, self.seed)
        for batch in batches:
            statistics.update(inspector.features(batch))
        statistics.gather()
        origins = self._fill_memory(task, statistics)
        routed, ordinary = inspector.add_prototypes(task)
        routed.set(statistics.images)
        ordinary.set(statistics.ordinary)
        if task == 0:
            patches = statistics.patches
            inspector.flow.set_reference(patches.mean, patches.std)
        inspector.schedule.tasks[task].drift = statistics.drift()
        if inspector.score.are_scaled:
            self._set_scales(task, batches if calibration is None else calibration)
        return origins

    def _fill_memory(self, task: int, statistics: TaskStatistics) -> Origins:
        """Fill a task's memory banks, if its score has any, and create its scales."""
        score, name = self.inspector.score, self.inspector.schedule.tasks[task].name
        origins: Origins = {part: [] for part in score.with_banks}
        if not score.needs_memory:
            return origins
        rows, widths = statistics.candidates, statistics.widths
        flat = [width for part in widths.values() for width in part]
        size = min(bank_size(statistics.count, flat, self.inspector.bank_mb), len(rows))
        shapes = {part: [(size, width) for width in widths[part]] for part in widths}
        self.inspector.make_memory(task, shapes)
        columns = iter(rows.split(flat, 1))
        for part, memory in self.inspector.memory(task).items():
            for index, bank in enumerate(cast(Iterable[MemoryBank], memory)):
                generator = derive_generator(self.seed, name, "bank", part, index)
                chosen = bank.fill(next(columns), generator)
                origins[part].append(gather(statistics.sources[chosen])[0])
                for buffer in bank.buffers():
                    # machines may break ties between nearly equal vectors differently
                    buffer.copy_(gather(buffer.cpu())[0])
        return origins

    def _set_scales(self, task: int, batches: Batches) -> None:
        """Set the scales of a task's scores to the medians over good images' patches."""
        inspector = self.inspector
        by_part: dict[str, list[Tensor]] = defaultdict(list)
        for batch in batches:
            features = inspector.features(batch)
            scores = inspector.part_scores(features, inspector.joined(features), task)
            for name, values in scores.items():
                by_part[name].append(
                    rows_of(values, inspector.interest.for_task(task)).flatten().cpu()
                )
        for name, memory in inspector.memory(task).items():
            values = torch.cat(gather(torch.cat(by_part[name])))
            scale = gather(values.median())[0]
            # 0 if all these patches are in the banks
            memory.scale.copy_(scale if scale > 0 else torch.ones(()))

    @torch.no_grad()
    def score_training(self, task: int, batches: Batches, origins: Origins) -> TrainingScores:
        """Score a finished task's training images, each without its own patches in the banks.

        Nothing is scored if a part of the score has no bank: the flow has learned these images.

        Args:
            task: The task.
            batches: Its training images or features, as for `finish_task`.
            origins: The result of `finish_task`.
        """
        inspector, result = self.inspector, TrainingScores()
        if not can_leave_out(inspector, origins):
            return result
        region, name = inspector.interest.for_task(task), inspector.schedule.tasks[task].name
        maps: list[Tensor] = []
        for batch, patches in scored_by_others(inspector, task, batches, origins):
            result.scores += inspector.image_score(rows_of(patches, region)).tolist()
            result.products += batch.get("product", [name] * len(patches))
            result.images += batch.get("path", [])
            maps += patches.float().cpu()
        highest = sorted(zip(result.scores, result.images, maps, strict=False), key=itemgetter(0))
        shown = {path: scores for _, path, scores in highest[-MOST_SHOWN:]}
        self.highest_training[task] = dict(ChainMap(*gather(shown)))
        shares = gather(result)
        return TrainingScores(
            *(interleave([getattr(share, part) for share in shares]) for part in vars(result))
        )

    def calibrate_task(
        self,
        task: int,
        batches: Batches,
        false_alarm_rate: float,
        images: Batches = (),
        training: TrainingScores | None = None,
    ) -> None:
        """Score a finished task's calibration images to set its thresholds.

        Args:
            task: The task.
            batches: Its calibration images or features, each once; on several ranks, all on each.
            false_alarm_rate: Share of good images that may be called defective.
            images: The same images as pixels, for brightness and damaged copies; without them, no
                image is called unknown.
            training: Scores of its training images, see `score_training`.
        """
        calibration = calibration_of(self.inspector, task, batches, false_alarm_rate, images)
        calibration.training = training = training or TrainingScores()
        count = len(calibration.images)
        names = relative_names([*calibration.images, *training.images])
        calibration.images, training.images = names[:count], names[count:]
        self.inspector.schedule.tasks[task].calibration = calibration


@torch.no_grad()
def calibration_of(
    inspector: Inspector,
    task: int,
    batches: Batches,
    false_alarm_rate: float,
    images: Batches = (),
) -> Calibration:
    """Compute the calibration of a finished task; see `calibrate_task`."""
    calibration = Calibration(false_alarm_rate=false_alarm_rate)
    column = inspector.router.tasks.index(task)
    for batch in batches:
        features = inspector.features(batch)
        inspection = inspector.inspect(features, task)
        distances = inspection.novelty_distance[:, column]
        products = batch.get("product", [inspector.schedule.tasks[task].name] * len(features))
        patches = rows_of(inspection.patch_scores, inspector.interest.for_task(task))
        calibration.add(inspection.score, patches, distances, products)
        calibration.images += batch.get("path", [])
    for batch in images:
        pixels = batch["image"].to(inspector.device)
        calibration.damaged_novelty_distances += damaged_distances(inspector, task, pixels).tolist()
        calibration.brightness += brightness_of(pixels).tolist()
    return calibration


def damaged_distances(inspector: Inspector, task: int, images: Tensor) -> Tensor:
    """The largest novelty distance (B,) of images (B, 3, H, W) after any of the damages."""
    region = inspector.interest.for_task(task)
    frame = None if region is None else region.frame((images.shape[2], images.shape[3]))
    changed = [damage_within(damage, images, frame) for damage in DAMAGES]
    damaged = [inspector.joined(inspector.extractor(pixels)) for pixels in changed]
    patches = [sample_patches(features, region) for features in damaged]
    router = inspector.novelty_router
    distances = [ordinary_quantile(router.distances_to(task, sample)) for sample in patches]
    return torch.stack(distances).amax(0)
