"""`MoLEFlow`: extractor, flow, router and schedule wired into a LightningModule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from moleflow_pl._internal.distributed import all_gather_rows, rank_and_world
from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.checkpoints.io import (
    check_state,
    check_tensors,
    plain,
    restoring,
    task_containers,
    unsaid,
)
from moleflow_pl.checkpoints.schema import CONFIG_KEY, CONTAINERS_KEY, STATE_KEY
from moleflow_pl.errors import ConfigError
from moleflow_pl.features.backbone import PRETRAINED
from moleflow_pl.features.extractor import PatchExtractor, Precision
from moleflow_pl.features.position import NoPosition, PositionalGrid, check_channels
from moleflow_pl.features.tiled_extractor import TiledExtractor
from moleflow_pl.flow.losses import LOSSES
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.model.inspector import Inspection
from moleflow_pl.model.learner import TaskLearner
from moleflow_pl.routing.image_features import IMAGE_FEATURES
from moleflow_pl.routing.router import ROUTERS, PrototypeRouter
from moleflow_pl.scoring.functional import IMAGE_SCORES, TAIL_QUANTILE, patch_nll
from moleflow_pl.tasks.schedule import TaskSchedule

LEARNING_RATE = 2e-3
LARGEST_BANK = 50_000  # latents of a product: chosen in minutes from eight times as many
BACKBONE_PREFIX = "extractor.backbone."


def adamw(params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The default optimizer of an expert."""
    return torch.optim.AdamW(params, lr=LEARNING_RATE, weight_decay=1e-4)


class MoLEFlow(TaskLearner):
    """Inspects one product after another by experts on a shared normalizing flow.

    Train it with `callbacks.TaskSchedulerCallback`, which says when a task begins and ends, on the
    batches of `ContinualDataModule`. Used by itself, `model(images)` scores images of any known
    product.

    Args:
        backbone: Name of a timm model, frozen.
        layers: Feature levels from 0; equal ones are averaged, others joined.
        image_size: Side of the images, or height and width.
        backbone_weights: `pretrained` (timm's), a `.safetensors` or `.pth` file, `package:NAME` for
            an installed package that carries the weights, or `random`.
        target_embed_dim: Width of a fixed random projection; none by default.
        smooth: Side of the window that features are averaged over, odd; 1 for none.
        grid: Side of the grid that features are pooled to, or height and width; none by default.
        tile: Side of the tiles, or height and width, in which the backbone sees large images;
            by default it sees an image at once.
        tile_overlap: Pixels that neighbouring tiles share at least.
        precision: What the backbone reckons in: `float32`, `bfloat16`, or `auto`: bfloat16 where
            the hardware has instructions for it.
        use_position: Add the sine-cosine code of places, of size 1.
        coupling_layers: Coupling blocks of the flow.
        clamp_alpha: Largest log-scale of one coupling.
        lora_rank: Rank of an expert's low-rank factors.
        lora_alpha: Their strength, divided by the rank.
        use_lora: Experts have low-rank factors.
        use_task_adapter: Experts have an input adapter.
        use_task_bias: Experts have bias shifts.
        adapter: Kind of the input adapters: `whitening`, which the likelihood counts, or `film`, as
            the method was published.
        loss: What a step lowers: the `mean` NLL of its patches, or with most weight their `tail`.
        score: A patch's anomaly score: the latent's `norm`, its `nll`, or the distance to the
            nearest of a coreset of normal latents, which are then kept: at the flow's end (`bank`),
            or half-way and there at once (`depths`).
        bank_size: Latents of each product that a bank keeps.
        router: Distance to a product's prototype: `pooled`, `mahalanobis` or `euclidean`; with
            `none`, all images go to the first task.
        prototype: What of an image's patches the router looks at: the mean of each of 16
            `regions`, or the `mean` or `median` of all.
        patch_fraction: Share of every image's patches that a training step sees, drawn evenly over
            the image and anew for each epoch.
        image_score: An image's score, of its patches': their `tail`, the mean beyond a quantile, or
            the `quantile` itself.
        image_quantile: That quantile; as published, `quantile` and 0.99.
        optimizer: Builds an optimizer from a list of parameters.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch14_dinov2.lvd142m",
        layers: Sequence[int] = (4, 5, 6, 7),
        image_size: int | list[int] = 518,
        backbone_weights: str = PRETRAINED,
        target_embed_dim: int | None = None,
        smooth: int = 1,
        grid: int | list[int] | None = None,
        tile: int | list[int] | None = None,
        tile_overlap: int = 64,
        precision: Precision = "float32",
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
        score: str = "norm",
        bank_size: int = 4000,
        router: str = "pooled",
        prototype: str = "regions",
        patch_fraction: float = 0.25,
        image_score: str = "tail",
        image_quantile: float = TAIL_QUANTILE,
        optimizer: OptimizerCallable = adamw,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"], logger=False)
        require_int("bank_size", bank_size, 1, LARGEST_BANK)
        require_number("patch_fraction", patch_fraction, 0, 1, above=True)
        require_number("image_quantile", image_quantile, 0, 1)
        kind: Any = PatchExtractor
        if tile is not None:
            kind = partial(TiledExtractor, tile=tile, overlap=tile_overlap)
        self.extractor: PatchExtractor = kind(
            backbone,
            layers,
            image_size,
            backbone_weights,
            target_embed_dim,
            smooth,
            grid,
            precision,
        )
        if use_position:
            check_channels(self.extractor.dim)
        self.position = PositionalGrid() if use_position else NoPosition()
        self.flow = MoLESpatialAwareNF(
            self.extractor.dim, coupling_layers, clamp_alpha, lora_rank, lora_alpha,
            use_lora, use_task_adapter, use_task_bias, adapter,
        )  # fmt: skip
        self.loss = LOSSES[loss]
        self.score_by(score)
        self.bank_size = bank_size
        self.banks = torch.nn.ModuleDict()
        self.image_features = IMAGE_FEATURES[prototype]()
        self.routes = router != "none"
        self.router = ROUTERS[router](self.image_features.regions)
        # to a product's own images, whatever other products there are
        self.novelty = PrototypeRouter("shrunk")
        self.patch_fraction = patch_fraction
        self.image_score = partial(IMAGE_SCORES[image_score], quantile=image_quantile)
        self.optimizer = optimizer
        self.schedule = TaskSchedule()
        self.forced_task: int | None = None  # whose expert `predict` uses, whatever the router says
        self.seed = torch.initial_seed()
        self.run_config = ""  # all arguments of the run as YAML, where a command line gave them

    # ---------------------------------------------------------------- steps

    def test_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Score test images of one task, routed and by their own expert if there is one."""
        own = int(batch["task"][0])
        features = self.features(batch)
        routed = self.inspect(features)
        # the very same numbers where the router is right, and where there is no own expert yet
        alike = own not in self.router.tasks or bool((routed.task == own).all())
        oracle = routed if alike else self.inspect(features, own)
        column = self.router.columns(routed.task)
        return {
            "routed_task": routed.task,
            "router_distance": routed.distances.gather(1, column[:, None])[:, 0],
            "distances": routed.distances,
            "routed_score": routed.score,
            "oracle_score": oracle.score,
            "routed_map": routed.patch_scores,
            "oracle_map": oracle.patch_scores,
        }

    def predict_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> Inspection | None:
        """Score images of unknown products, or all by the expert that was asked for.

        None for a batch of files that were no images.
        """
        if not batch["path"]:
            return None
        return self.inspect(self.features(batch), self.forced_task)

    def validation_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Log what good images that were held out cost, and where the router sends them."""
        own = int(batch["task"][0])
        size, name = len(batch["task"]), self.schedule.tasks[own].name
        features = self.features(batch)
        nll = patch_nll(*self.flow(self.position(features), own)).mean() / self.extractor.dim
        options: dict[str, Any] = {"batch_size": size, "add_dataloader_idx": False}
        self.log(f"val/{name}/nll_per_dim", nll, **options)
        if own in self.router.tasks:
            routed = self.router.route(self.image_features(features))
            accuracy = (routed == own).float().mean()
            self.log(f"val/{name}/routing_accuracy", accuracy, **options)

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        """Build the optimizer of the current task, over an explicit list of its parameters.

        Raises:
            ConfigError: there is no task, or it has nothing to train.
        """
        task = self.schedule.current
        if not self.schedule.tasks:
            raise ConfigError(
                "no task to learn: add callbacks.TaskSchedulerCallback to the Trainer"
            )
        if task is None:
            return None
        self.begin_task(task)
        parameters = self.flow.parameters_for(task)
        if not parameters:
            raise ConfigError(
                f"task {self.schedule.tasks[task].name!r} has nothing to train: switch on one of "
                "use_lora, use_task_adapter, use_task_bias"
            )
        optimizer = self.optimizer(parameters)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss of the current task's patches, in nats.

        Raises:
            RuntimeError: the batch shows another task.
        """
        task = self.schedule.current
        if task is None or bool((batch["task"] != task).any()):
            raise RuntimeError(
                f"a batch of task {batch['task'].tolist()} came while task {task} is learned"
            )
        patches = all_gather_rows(self.training_nll(batch, task))
        # DDP takes the mean over ranks of gradients that are each of one rank's patches
        loss = self.loss(patches) * rank_and_world()[1]
        nll, size = patches.detach().mean() / self.extractor.dim, len(patches)
        self.log("nll_per_dim", nll, prog_bar=True, logger=False, batch_size=size)
        name = self.schedule.tasks[task].name
        self.log(f"train/{name}/nll_per_dim", nll, on_step=False, on_epoch=True, batch_size=size)
        return loss

    # ---------------------------------------------------------------- checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> MoLEFlow:
        """Build the model a file holds from plain values alone: nothing it names is imported."""
        safe = {"weights_only": True, "_instantiator": None}
        with restoring(checkpoint_path):
            options = {**unsaid(checkpoint_path), **kwargs, **safe}
            return super().load_from_checkpoint(checkpoint_path, *args, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out; say what the file belongs to and how far it is."""
        weights = checkpoint["state_dict"]
        for key in [key for key in weights if key.startswith(BACKBONE_PREFIX)]:
            del weights[key]
        checkpoint[STATE_KEY] = {
            "seed": self.seed,
            "backbone": self.extractor.fingerprint(),
            "structure": self._structure(),
            "experts": list(self.flow.tasks),
            "prototypes": self.router.tasks,
            CONTAINERS_KEY: task_containers(self),
            "tasks": self.schedule.state(),
        }
        checkpoint[CONFIG_KEY] = self.run_config
        for key in ("hyper_parameters", "optimizer_states"):
            if key in checkpoint:
                checkpoint[key] = plain(checkpoint[key])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for all the file holds before its tensors are loaded.

        Raises:
            CheckpointError: the file is foreign, or of another backbone or structure.
        """
        state = self.validate_checkpoint(checkpoint)
        planned = self.schedule.tasks
        self.schedule = TaskSchedule.from_state(state["tasks"])
        if "score" not in state["structure"]:
            self.schedule.forget_calibrations()
        if planned:
            groups = [task.products for task in planned]
            self.schedule = self.schedule.replanned(groups, planned[-1].epochs)
        self.seed = state["seed"]
        self.run_config = self.run_config or checkpoint.get(CONFIG_KEY, "")
        for task in state["experts"]:
            if task not in self.flow.tasks:
                self.flow.add_task(task)
        for task in state["prototypes"]:
            self.add_prototypes(task)
            if self.keeps_latents:
                self._bank(task)
        own = {f"{BACKBONE_PREFIX}{k}": v for k, v in self.extractor.backbone.state_dict().items()}
        checkpoint["state_dict"].update(own)
        check_tensors(checkpoint["state_dict"], self.state_dict())
        current = self.schedule.current
        if current is None or not self.schedule.tasks[current].epochs_done:
            # what is there belongs to a task that is done; by position it would fit the next one
            checkpoint["optimizer_states"] = []

    def validate_checkpoint(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """The project's part of a checkpoint.

        Raises:
            CheckpointError: the file is foreign, or of another backbone or structure.
        """
        return check_state(checkpoint, self.extractor.fingerprint(), self._structure())

    def _structure(self) -> dict[str, Any]:
        """Arguments that decide which tensors and thresholds there are and what they mean."""
        names = (
            "use_position", "coupling_layers", "clamp_alpha", "lora_rank", "lora_alpha",
            "use_lora", "use_task_adapter", "use_task_bias", "adapter", "prototype", "score",
            "image_score", "image_quantile",
        )  # fmt: skip
        kept = self.bank_size if self.keeps_latents else 0
        return {name: self.hparams[name] for name in names} | {"bank_size": kept}
