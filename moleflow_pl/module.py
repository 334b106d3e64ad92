"""`MoLEFlow`: extractor, flow, router and schedule wired into a LightningModule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from moleflow_pl.checkpoint import CONFIG_KEY, STATE_KEY, check_state, plain
from moleflow_pl.errors import ConfigError
from moleflow_pl.extractor import PRETRAINED, PatchExtractor
from moleflow_pl.flow import MoLESpatialAwareNF
from moleflow_pl.position import PositionalGrid
from moleflow_pl.ranks import average, gather, rank_and_world, share_of_mean, total
from moleflow_pl.router import Distance, PrototypeRouter, TaskPrototype
from moleflow_pl.schedule import TaskSchedule
from moleflow_pl.scoring import image_score, patch_nll
from moleflow_pl.seeding import derive_generator, derive_seed
from moleflow_pl.statistics import FeatureStatistics

BACKBONE_PREFIX = "extractor.backbone."


def adamw(params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The default optimizer of an expert."""
    return torch.optim.AdamW(params, lr=1e-4, weight_decay=1e-4)


@dataclass
class Inspection:
    """What the model says of a batch of images.

    Attributes:
        score: Anomaly score of each image (B,), in nats.
        patch_scores: Score of each patch (B, h, w), in nats.
        task: The task each image was sent to (B,).
        distances: Router distances (B, T), in the order of `router.tasks`.
    """

    score: Tensor
    patch_scores: Tensor
    task: Tensor
    distances: Tensor


class MoLEFlow(LightningModule):
    """Inspects one product after another by experts on a shared normalizing flow.

    Train it with `callbacks.TaskSchedulerCallback`, which says when a task begins and ends, on the
    batches of `ContinualDataModule`. Used by itself, `model(images)` scores images of any known
    product.

    Args:
        backbone: Name of a timm model, frozen.
        layers: Its feature levels, from 0; equal ones are averaged, others concatenated.
        image_size: Side of the images, or height and width.
        backbone_weights: `pretrained` (timm's), a `.safetensors` or `.pth` file, `package:NAME` for
            an installed package that carries the weights, or `random`.
        target_embed_dim: Width of a fixed random projection of the features; none by default.
        smooth: Side of the window that features are averaged over, odd; 1 for none.
        grid: Side of the grid that features are pooled to, or height and width; none by default.
        use_position: Add the two-dimensional sine-cosine code.
        coupling_layers: Coupling blocks of the flow.
        clamp_alpha: Largest log-scale of one coupling.
        lora_rank: Rank of an expert's low-rank factors.
        lora_alpha: Their strength, divided by the rank.
        use_lora: Experts have low-rank factors.
        use_task_adapter: Experts have a FiLM input adapter.
        use_task_bias: Experts have bias shifts.
        router: Distance to a product's prototype: `pooled`, `mahalanobis` or `euclidean`; with
            `none`, all images go to the first task.
        patches_per_image: Random patches of every image that a training step sees; all by default.
        image_quantile: Quantile of its patches' scores that is an image's score.
        optimizer: Builds an optimizer from a list of parameters.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch14_dinov2.lvd142m",
        layers: Sequence[int] = (8, 9, 10, 11),
        image_size: int | list[int] = 518,
        backbone_weights: str = PRETRAINED,
        target_embed_dim: int | None = None,
        smooth: int = 1,
        grid: int | list[int] | None = None,
        use_position: bool = True,
        coupling_layers: int = 8,
        clamp_alpha: float = 1.9,
        lora_rank: int = 32,
        lora_alpha: float = 1.0,
        use_lora: bool = True,
        use_task_adapter: bool = True,
        use_task_bias: bool = True,
        router: Distance | Literal["none"] = "pooled",
        patches_per_image: int | None = None,
        image_quantile: float = 0.99,
        optimizer: OptimizerCallable = adamw,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"], logger=False)
        self.extractor = PatchExtractor(
            backbone, layers, image_size, backbone_weights, target_embed_dim, smooth, grid
        )
        self.position = PositionalGrid() if use_position else torch.nn.Identity()
        self.flow = MoLESpatialAwareNF(
            self.extractor.dim, coupling_layers, clamp_alpha, lora_rank, lora_alpha,
            use_lora, use_task_adapter, use_task_bias,
        )  # fmt: skip
        self.routes = router != "none"
        self.router = PrototypeRouter("pooled" if router == "none" else router)
        self.patches_per_image = patches_per_image
        self.image_quantile = image_quantile
        self.optimizer = optimizer
        self.schedule = TaskSchedule()
        self.seed = torch.initial_seed()
        self.run_config = ""  # all arguments of the run as YAML, where a command line gave them

    # ---------------------------------------------------------------- inspecting images

    def forward(self, images: Tensor) -> Inspection:
        """Score images (B, 3, H, W), uint8 or float in [0, 1], of any known products."""
        return self.inspect(self.extractor(images))

    def inspect(self, features: Tensor, task: int | None = None) -> Inspection:
        """Score features (B, h, w, D) by the expert of `task`, or by those the router picks."""
        distances = self.router.distances(features.mean((1, 2)))
        if task is not None:
            chosen = torch.full((len(features),), task, device=features.device)
        elif self.routes:
            chosen = self.router.nearest(distances)
        else:
            chosen = torch.zeros(len(features), dtype=torch.long, device=features.device)
        patch_scores = self.patch_scores(features, chosen)
        score = image_score(patch_scores, self.image_quantile)
        return Inspection(score, patch_scores, chosen, distances)

    def patch_scores(self, features: Tensor, task: int | Tensor) -> Tensor:
        """NLL (B, h, w) of features (B, h, w, D) by one expert or by one for each image."""
        return patch_nll(*self.flow(self.position(features), task))

    def features(self, batch: Mapping[str, Any]) -> Tensor:
        """Features (B, h, w, D) of a batch, stored or fresh."""
        return batch["features"] if "features" in batch else self.extractor(batch["image"])

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
        return {
            "routed_task": routed.task,
            "router_distance": routed.distances.min(1).values,
            "distances": routed.distances,
            "routed_score": routed.score,
            "oracle_score": oracle.score,
            "routed_map": routed.patch_scores,
            "oracle_map": oracle.patch_scores,
        }

    def predict_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> Inspection:
        """Score images of unknown products."""
        return self.inspect(self.features(batch))

    def validation_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Log what good images that were held out cost, and where the router sends them."""
        own = int(batch["task"][0])
        size, name = len(batch["task"]), self.schedule.tasks[own].name
        features = self.features(batch)
        nll = self.patch_scores(features, own).mean() / self.extractor.dim
        options: dict[str, Any] = {"batch_size": size, "add_dataloader_idx": False}
        self.log(f"val/{name}/nll_per_dim", nll, **options)
        if own in self.router.tasks:
            routed = self.router.route(features.mean((1, 2)))
            accuracy = (routed == own).float().mean()
            self.log(f"val/{name}/routing_accuracy", accuracy, **options)

    # ---------------------------------------------------------------- learning a task

    def begin_task(self, task: int) -> None:
        """Give `task` its expert, unless it has one; its random numbers are its own."""
        if task in self.flow.tasks:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, self.schedule.tasks[task].name, "expert"))
            self.flow.add_task(task)

    def finish_task(self, task: int, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit what a learned task leaves behind: its prototype, and the first one's reference.

        Args:
            task: The task.
            batches: Its training images or features, each once; on several ranks, their shares.
        """
        images = FeatureStatistics(self.extractor.dim)
        patches = FeatureStatistics(self.extractor.dim)
        means = torch.zeros(self.extractor.dim, dtype=torch.float64)
        with torch.no_grad():
            for batch in batches:
                features = self.features(self.transfer_batch_to_device(batch, self.device, 0))
                images.update(features.mean((1, 2)))
                positioned = self.position(features)
                # in float64 on the CPU: some devices have none
                means += positioned.mean((1, 2)).cpu().double().sum(0)
                if task == 0:
                    patches.update(positioned)
        images, patches = images.gathered(), patches.gathered()
        means = torch.stack(gather(means)).sum(0)
        prototype = TaskPrototype(self.extractor.dim).to(self.device)
        prototype.set(images)
        self.router.add_prototype(task, prototype)
        if task == 0:
            self.flow.set_reference(patches.mean, patches.std)
        shift = means / images.count - self.flow.reference_mean.cpu().double()
        drift = (shift / self.flow.reference_std.cpu().double()).abs().mean().item()
        self.schedule.tasks[task].drift = drift

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
        """Mean NLL of the current task's patches, in nats.

        Raises:
            RuntimeError: the batch shows another task.
        """
        task = self.schedule.current
        if task is None or bool((batch["task"] != task).any()):
            raise RuntimeError(
                f"a batch of task {batch['task'].tolist()} came while task {task} is learned"
            )
        features = self.position(self.features(batch))
        size = total(len(batch["task"]), self.device)
        features = self._sample_patches(features, task, batch_idx, size)
        loss = share_of_mean(patch_nll(*self.flow(features, task)), size)
        nll = average(loss.detach()) / self.extractor.dim
        self.log("nll_per_dim", nll, prog_bar=True, logger=False, batch_size=size)
        name = self.schedule.tasks[task].name
        self.log(f"train/{name}/nll_per_dim", nll, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def _sample_patches(self, features: Tensor, task: int, batch_idx: int, images: int) -> Tensor:
        """Some patches of every image, (B, 1, n, D), drawn anew in every step.

        Every rank draws for the `images` of all, and takes those of its own.
        """
        patches = features.flatten(1, 2)
        own, count, _ = patches.shape
        wanted = self.patches_per_image
        if wanted is None or wanted >= count:
            return features
        state = self.schedule.tasks[task]
        # the 0 was a rank's number once; with it, runs that began then go on alike
        generator = derive_generator(
            self.seed, state.name, "patches", state.epochs_done, batch_idx, 0
        )
        rank, world = rank_and_world()
        drawn = torch.rand(images, count, generator=generator)[rank::world]
        order = drawn.argsort(1)[:, :wanted]
        rows = torch.arange(own)[:, None]
        return patches[rows.to(patches.device), order.to(patches.device)][:, None]

    # ---------------------------------------------------------------- checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> MoLEFlow:
        """Build the model a file holds from plain values alone: nothing it names is imported."""
        safe = {"weights_only": True, "_instantiator": None}
        return super().load_from_checkpoint(checkpoint_path, *args, **{**kwargs, **safe})

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
        state = self.check(checkpoint)
        planned = self.schedule.tasks
        self.schedule = TaskSchedule.from_state(state["tasks"])
        if planned:
            groups = [task.products for task in planned]
            self.schedule = self.schedule.replanned(groups, planned[-1].epochs)
        self.seed = state["seed"]
        self.run_config = self.run_config or checkpoint.get(CONFIG_KEY, "")
        for task in state["experts"]:
            if task not in self.flow.tasks:
                self.flow.add_task(task)
        for task in state["prototypes"]:
            self.router.add_prototype(task, TaskPrototype(self.extractor.dim).to(self.device))
        own = {f"{BACKBONE_PREFIX}{k}": v for k, v in self.extractor.backbone.state_dict().items()}
        checkpoint["state_dict"].update(own)
        current = self.schedule.current
        if current is None or not self.schedule.tasks[current].epochs_done:
            # what is there belongs to a task that is done; by position it would fit the next one
            checkpoint["optimizer_states"] = []

    def check(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """The project's part of a checkpoint.

        Raises:
            CheckpointError: the file is foreign, or of another backbone or structure.
        """
        return check_state(checkpoint, self.extractor.fingerprint(), self._structure())

    def _structure(self) -> dict[str, Any]:
        """Arguments that decide which tensors there are and what they mean."""
        names = (
            "use_position", "coupling_layers", "clamp_alpha", "lora_rank", "lora_alpha",
            "use_lora", "use_task_adapter", "use_task_bias",
        )  # fmt: skip
        return {name: self.hparams[name] for name in names}
