"""`MoLEFlow`: the Lightning shell around an inspector and its learner."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from moleflow_pl._internal.devices import usual_device
from moleflow_pl._internal.lightning_compat import WITHOUT_IMPORTS
from moleflow_pl._internal.presets import read_preset
from moleflow_pl._internal.schema import stamp
from moleflow_pl._internal.validation import require_number
from moleflow_pl.checkpoints.io import plain, restoring, verify
from moleflow_pl.checkpoints.lightning_io import use_whole_checkpoints
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.checkpoints.schema import CONFIG_KEY, STATE_KEY, require_tensors
from moleflow_pl.data.batches import Batch, PredictBatch, images_of, require_task_batch
from moleflow_pl.data.datamodule import ContinualDataModule
from moleflow_pl.data.plan import DataPlan
from moleflow_pl.errors import ConfigError
from moleflow_pl.features.backbone import PRETRAINED
from moleflow_pl.features.extractor import Precision
from moleflow_pl.features.groups import GroupNorm
from moleflow_pl.features.region_of_interest import rows_of
from moleflow_pl.flow.losses import LOSSES
from moleflow_pl.model.arguments import ModelArguments
from moleflow_pl.model.build import build_inspector, plain_tensors
from moleflow_pl.model.inspector import Inspection, Inspector
from moleflow_pl.model.learner import TaskLearner
from moleflow_pl.model.restore import (
    BACKBONE,
    PREFIX,
    backbone_tensors,
    inspector_state,
    inspector_tensors,
    make_room,
    validate_state,
    warn_of_precision,
)
from moleflow_pl.scoring.functional import TAIL_QUANTILE, patch_nll
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)

LEARNING_RATE = 2e-3


def adamw(params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The default optimizer of an expert."""
    return torch.optim.AdamW(params, lr=LEARNING_RATE, weight_decay=1e-4)


class MoLEFlow(LightningModule):
    """Inspects one product after another by experts on a shared normalizing flow.

    A thin shell: `inspector` scores images, `learner` fits tasks. Train it with
    `moleflow_pl.callbacks.TaskSchedulerCallback`, which starts and ends tasks, on the batches of
    `ContinualDataModule`. Used by itself, `model(images)` scores images of any known product.

    Args:
        backbone: Name of a timm model, frozen.
        layers: Feature levels from 0, or groups of them; within a group, levels of equal shape are
            averaged, others concatenated.
        image_size: Side of the images, or height and width.
        backbone_weights: `pretrained` (timm's), a `.safetensors` or `.pth` file, `package:NAME` of
            an installed package, or `random`.
        target_embed_dim: Width of a fixed random projection; none by default.
        smooth: Side of the window that features are averaged over, odd.
        grid: Side of the grid of features, or height and width.
        tile: Side of the tiles, or height and width, in which the backbone sees large images;
            by default it sees an image at once.
        tile_overlap: Least overlap of neighbouring tiles, in pixels.
        precision: Number format of the backbone: `float32`, `bfloat16`, or `auto`: bfloat16 where
            the hardware has instructions for it.
        flow_groups: How many of the first groups the flow and the router see.
        group_norm: Norm in the score `groups`: `l2`, `layer_norm` or `none`.
        use_position: Add a sine-cosine position code, with values up to 1.
        coupling_layers: Coupling blocks of the flow.
        clamp_alpha: Largest log-scale of one coupling.
        lora_rank: Rank of an expert's low-rank factors.
        lora_alpha: Strength of the low-rank factors, before division by the rank.
        use_lora: Experts have low-rank factors.
        use_task_adapter: Experts have an input adapter.
        use_task_bias: Experts have bias shifts.
        adapter: Kind of the input adapters: `whitening`, which the likelihood counts, or `film`, as
            in the original method.
        loss: Loss of a step: the `mean` NLL of its patches, or the `tail`, the worst weighted most.
        score: Anomaly score of a patch: the latent's `norm`, its `nll`, or the distance to a
            memory bank at the flow's end (`bank`), also half-way (`depths`), or in each group of
            layers (`groups`). Several are added, each divided by its median on good images.
        bank_mb: Largest size of a task's memory banks together, in MB.
        router: Distance to a task's prototype: `pooled`, `mahalanobis` or `euclidean`; with
            `none`, all images go to the first task.
        prototype: What the router sees of an image: the mean of each of 16 `regions`, or the
            `mean` or `median` of all patches.
        patch_fraction: Share of an image's patches in a step, drawn again each epoch.
        image_score: Score of an image from its patches: their `tail`, the mean beyond a quantile,
            or the `quantile` itself.
        image_quantile: Quantile of the image score; originally `quantile` at 0.99.
        optimizer: Builds an optimizer from a list of parameters.

    Attributes:
        inspector: The model that inference needs.
        learner: Fits what a task needs besides its gradient steps.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch14_dinov2.lvd142m",
        layers: Sequence[int] | Sequence[Sequence[int]] = (4, 5, 6, 7),
        image_size: int | list[int] = 518,
        backbone_weights: str = PRETRAINED,
        target_embed_dim: int | None = None,
        smooth: int = 1,
        grid: int | list[int] | None = None,
        tile: int | list[int] | None = None,
        tile_overlap: int = 64,
        precision: Precision = "float32",
        flow_groups: int = 2,
        group_norm: GroupNorm = "l2",
        use_position: bool = False,
        coupling_layers: int = 8,
        clamp_alpha: float = 1.9,
        lora_rank: int = 32,
        lora_alpha: float = 32.0,
        use_lora: bool = True,
        use_task_adapter: bool = True,
        use_task_bias: bool = True,
        adapter: str = "whitening",
        loss: str = "mean",
        score: str | Sequence[str] = "norm",
        bank_mb: float = 4.0,
        router: str = "pooled",
        prototype: str = "regions",
        patch_fraction: float = 0.25,
        image_score: str = "tail",
        image_quantile: float = TAIL_QUANTILE,
        optimizer: OptimizerCallable = adamw,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"], logger=False)
        require_number("patch_fraction", patch_fraction, 0, 1, above=True)
        arguments = {field.name: self.hparams[field.name] for field in fields(ModelArguments)}
        self.inspector: Inspector = build_inspector(ModelArguments(**arguments))
        self.learner = TaskLearner(self.inspector, LOSSES[loss], torch.initial_seed())
        self.data_plan = DataPlan(
            self.inspector.extractor, self.schedule, self.learner.seed, patch_fraction
        )
        self.optimizer = optimizer
        self.predicted_task: int | None = None  # whose expert `predict` uses; the router's if none
        self.scores_are_taken = False  # by a callback, in `test`
        self.run_config = ""  # all arguments of the run as YAML, where a command line gave them

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> MoLEFlow:
        """A new model with the arguments of a preset, such as `demo`, some of them replaced.

        Its random numbers depend on torch's seed: call `lightning.seed_everything` before.

        Raises:
            ConfigError: there is no such preset, or an argument has a value it cannot have.
        """
        arguments = {**read_preset(name)["model"], **overrides}
        optimizer = arguments.get("optimizer")
        if isinstance(optimizer, Mapping):  # by name, as the command line takes it
            package, _, kind = optimizer["class_path"].rpartition(".")
            build = getattr(import_module(package), kind)
            arguments["optimizer"] = partial(build, **optimizer["init_args"])
        return cls(**arguments)

    @property
    def schedule(self) -> TaskSchedule:
        """The tasks, learned and planned."""
        return self.inspector.schedule

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.learner.seed

    def forward(self, images: Tensor) -> Inspection:
        """Score images (B, 3, H, W), uint8 or float in [0, 1], of any known products."""
        return self.inspector(images)

    def setup(self, stage: str) -> None:
        """Give the data module its plan, and make the Trainer write checkpoints atomically."""
        use_whole_checkpoints(self.trainer)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ContinualDataModule):
            run = RunFolder(Path(self.trainer.default_root_dir))
            data.follow(self.data_plan, run.features)

    def on_test_start(self) -> None:
        """Check the products; warn if no callback collects the scores, which are the result.

        Raises:
            ConfigError: the model knows none of the products.
        """
        self.schedule.require_any(getattr(self.trainer.datamodule, "groups", []))  # type: ignore[attr-defined]
        if not self.scores_are_taken:
            logger.warning(
                "trainer.test gives no result by itself: add "
                "moleflow_pl.callbacks.EvaluationCallback to the Trainer's callbacks"
            )

    # ---------------------------------------------------------------- steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of the current task's patches, in nats.

        Raises:
            DataError: the batch has no task.
            RuntimeError: the batch belongs to another task.
        """
        require_task_batch(batch)
        task = self.schedule.current
        if task is None or bool((batch["task"] != task).any()):
            raise RuntimeError(
                f"a batch of task {batch['task'].tolist()} arrived while task {task} is learned: "
                "train on the batches of ContinualDataModule"
            )
        loss, patch_nlls = self.learner.loss(batch, task)
        nll, size = patch_nlls.mean() / self.inspector.extractor.dim, len(patch_nlls)
        self.log("nll_per_dim", nll, prog_bar=True, logger=False, batch_size=size)
        name = self.schedule.tasks[task].name
        self.log(f"train/{name}/nll_per_dim", nll, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the NLL and the routing accuracy of calibration images."""
        require_task_batch(batch)
        inspector, task = self.inspector, int(batch["task"][0])
        size, name = len(batch["task"]), self.schedule.tasks[task].name
        features = inspector.features(batch)
        joined = inspector.joined(features)
        nlls = patch_nll(*inspector.flow(inspector.position(joined), task))
        nll = rows_of(nlls, inspector.interest.for_task(task)).mean()
        options: dict[str, Any] = {"batch_size": size, "add_dataloader_idx": False}
        self.log(f"val/{name}/nll_per_dim", nll / inspector.extractor.dim, **options)
        if task in inspector.router.tasks:
            image_features, distances = inspector.measure_distances(joined)
            routed = inspector.router.choose(distances, image_features)
            accuracy = (routed == task).float().mean()
            self.log(f"val/{name}/routing_accuracy", accuracy, **options)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Score test images of one task, routed and by the oracle, if the task has an expert."""
        require_task_batch(batch)
        inspector, task = self.inspector, int(batch["task"][0])
        features = inspector.features(batch)
        routed = inspector.inspect(features)
        # equal where the router is right, and where the task has no expert yet
        same = task not in inspector.router.tasks or bool((routed.task == task).all())
        oracle = routed if same else inspector.inspect(features, task)
        column = inspector.router.columns(routed.task)
        return {
            "routed_task": routed.task,
            "router_distance": routed.distances.gather(1, column[:, None])[:, 0],
            "distances": by_task(routed.distances, inspector.router.tasks),
            "novelty_distance": routed.novelty_distance,
            "routed_score": routed.score,
            "oracle_score": oracle.score,
            "routed_map": routed.patch_scores,
            "oracle_map": oracle.patch_scores,
        }

    def predict_step(
        self, batch: PredictBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Inspection | None:
        """Score images of unknown products, or all with the expert that was asked for.

        Returns None for a batch without a readable image.

        Raises:
            DataError: the batch holds no images.
        """
        images = images_of(batch)
        if not len(images):
            return None
        features = self.inspector.extractor(images.to(self.device, non_blocking=True))
        return self.inspector.inspect(features, self.predicted_task)

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """Build the optimizer of the current task, over an explicit list of its parameters.

        Raises:
            ConfigError: there is no task, or the task has nothing to train.
        """
        task = self.schedule.current
        if not self.schedule.tasks:
            raise ConfigError(
                "no task to learn: add moleflow_pl.callbacks.TaskSchedulerCallback to the Trainer"
            )
        if task is None:
            return None
        self.learner.begin_task(task)
        parameters = self.inspector.flow.parameters_for(task)
        if not parameters:
            raise ConfigError(
                f"task {self.schedule.tasks[task].name!r} has nothing to train: enable one of "
                "use_lora, use_task_adapter, use_task_bias"
            )
        optimizer = self.optimizer(parameters)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    # ---------------------------------------------------------------- checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> MoLEFlow:
        """Build a checkpoint's model from plain values; nothing that the file names is imported."""
        with restoring(checkpoint_path), plain_tensors(), usual_device():
            verify(checkpoint_path)
            options = {**kwargs, **WITHOUT_IMPORTS}
            return super().load_from_checkpoint(checkpoint_path, *args, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out; add the project's state and the run's arguments."""
        weights = checkpoint["state_dict"]
        for key in [key for key in weights if key.startswith(f"{PREFIX}{BACKBONE}")]:
            del weights[key]
        state = inspector_state(self.inspector, self)
        checkpoint[STATE_KEY] = {**stamp(), "seed": self.seed, **state}
        checkpoint[CONFIG_KEY] = self.run_config
        for key in ("hyper_parameters", "optimizer_states"):
            if key in checkpoint:
                checkpoint[key] = plain(checkpoint[key])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the modules of all tasks in the file before its tensors are loaded.

        Raises:
            CheckpointError: the file is not this project's, or of another backbone or structure.
        """
        state = self.validate_checkpoint(checkpoint)
        warn_of_precision(self.inspector, checkpoint)
        planned = self.schedule.tasks
        make_room(self.inspector, state, inspector_tensors(checkpoint))
        if planned:
            groups = [task.products for task in planned]
            self.schedule.tasks = self.schedule.replanned(groups, planned[-1].epochs).tasks
        self.learner.seed = self.data_plan.seed = state["seed"]
        self.run_config = self.run_config or checkpoint.get(CONFIG_KEY, "")
        backbone = backbone_tensors(self.inspector.extractor, f"{PREFIX}{BACKBONE}")
        checkpoint["state_dict"].update(backbone)
        require_tensors(checkpoint["state_dict"], self.state_dict())
        current = self.schedule.current
        if current is None or not self.schedule.tasks[current].epochs_done:
            # the optimizer's state belongs to a finished task, and would load into the next one's
            checkpoint["optimizer_states"] = []

    def validate_checkpoint(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return the project's part of a checkpoint, if it fits this model.

        Raises:
            CheckpointError: the file is not this project's, or of another backbone or structure.
        """
        return validate_state(self.inspector, checkpoint)


def by_task(distances: Tensor, tasks: Sequence[int]) -> Tensor:
    """Spread distances (B, T) to some tasks over columns for all tasks; infinity for the others.

    Example:
        >>> by_task(torch.tensor([[1.0, 2.0]]), [0, 2])
        tensor([[1., inf, 2.]])
    """
    columns = distances.new_full((len(distances), tasks[-1] + 1), torch.inf)
    columns[:, tasks] = distances
    return columns
