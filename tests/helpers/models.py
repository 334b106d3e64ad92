"""Small models, and fits of them in this process."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer

from moleflow_pl import ContinualDataModule, MoLEFlow, MoLESpatialAwareNF
from moleflow_pl.callbacks import EvaluationCallback, RunCheckpoint, TaskSchedulerCallback
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.routing.novelty import sample_patches
from moleflow_pl.scoring.patch_scores import PatchFeatures
from moleflow_pl.tasks.calibration import Calibration
from tests.helpers.products import SIZE

TINY_MODEL = {
    "backbone": "test_vit",
    "layers": [0, 1],
    "image_size": SIZE,
    "backbone_weights": "random",
    "use_position": True,
    "coupling_layers": 2,
    "lora_rank": 2,
}
# the method as it was first written down
SEED_METHOD = {
    "adapter": "film",
    "lora_alpha": 1.0,
    "score": "nll",
    "prototype": "mean",
    "patch_fraction": 1.0,
    "image_score": "quantile",
    "image_quantile": 0.99,
}


def wake(flow: MoLESpatialAwareNF, std: float = 0.05) -> None:
    """Move every parameter off its start, so that zeros hide nothing."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += std * torch.randn_like(parameter)


def with_tasks(module: MoLEFlow, count: int = 2) -> MoLEFlow:
    """A model with random experts, and prototypes of random images."""
    module.schedule.extend([[f"p{i}"] for i in range(count)], epochs=1)
    for task in range(count):
        module.learner.begin_task(task)
        images = torch.rand(6, 3, SIZE, SIZE) / (1 + task)
        module.learner.finish_task(task, [{"image": images}])
        module.schedule.tasks[task].epochs_done = 1
    wake(module.inspector.flow)
    return module.eval()


def fit(
    run: Path,
    data_root: Path,
    tasks: list,
    epochs: int = 2,
    ckpt_path: Path | None = None,
    model: dict[str, object] | None = None,
    data: dict[str, object] | None = None,
    callbacks: list[Callback] | None = None,
    trainer: dict[str, object] | None = None,
) -> MoLEFlow:
    """Learn `tasks` in this process, as the command line does."""
    torch.manual_seed(0)
    module = MoLEFlow(**{**TINY_MODEL, **(model or {})})
    datamodule = ContinualDataModule(
        str(data_root), tasks, **{"batch_size": 4, "num_workers": 0, **(data or {})}
    )
    own = [EvaluationCallback(map_size=48, blur_sigma=1.0)] if callbacks is None else callbacks
    made = Trainer(
        default_root_dir=run,
        accelerator="cpu",
        logger=False,
        max_epochs=-1,
        num_sanity_val_steps=0,
        gradient_clip_val=0.5,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TaskSchedulerCallback(epochs), *own, RunCheckpoint()],
        **(trainer or {}),
    )
    made.fit(module, datamodule, ckpt_path=ckpt_path)
    return module


def some_tasks(model: MoLEFlow, count: int) -> MoLEFlow:
    """Give a model experts, prototypes and banks that differ, without learning anything."""
    dim = model.inspector.extractor.dim
    for task in range(count):
        model.inspector.flow.add_task(task)
        model.inspector.add_interest(task)
        adapter, patches = model.inspector.flow.adapter_of(task), FeatureStatistics(dim)
        patches.update(torch.randn(2 * dim, dim) * (task + 1) + task)
        if adapter is not None:
            adapter.fit(patches)
        routed, ordinary = model.inspector.add_prototypes(task)
        centre = torch.randn(1, 4, 4, dim)
        routed.update(model.inspector.image_features(centre + torch.randn(50, 4, 4, dim)))
        ordinary.update(sample_patches(torch.randn(20, 4, 4, dim) + task))
        draw_memory(model, task)
    wake(model.inspector.flow)
    model.schedule.extend([[f"p{task}"] for task in range(count)], epochs=1)
    for task in model.schedule.tasks:
        task.epochs_done = 1
    for task in model.schedule.tasks[:2]:  # only these two have a calibration set
        task.calibration = Calibration(
            [1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [1.0, 1.0, 1.0], [8.0, 9.0, 9.0], [9.0, 12.0, 10.0]
        )
    return model.eval()


def look_right(model: MoLEFlow, *tasks: int) -> MoLEFlow:
    """Let the patches of all columns but the first count for some tasks."""
    for task in tasks:
        height, width, _ = model.inspector.extractor.shape
        model.inspector.interest.set(task, (torch.arange(width) > 0).expand(height, -1))
    return model


def draw_memory(model: MoLEFlow, task: int, size: int = 20) -> None:
    """Give a task banks of random vectors, and scales."""
    inspector, generator = model.inspector, torch.Generator().manual_seed(task)
    grid, groups = torch.zeros(1, 1, 1, inspector.extractor.dim), inspector.extractor.groups
    features = PatchFeatures(grid, lambda: groups.split(torch.zeros(1, 1, 1, sum(groups.widths))))
    banks = {
        name: score.encode(inspector.flow, features, task)
        for name, score in inspector.score.with_banks.items()
    }
    if not inspector.score.needs_memory:
        return
    inspector.make_memory(
        task,
        {
            name: [(size, vectors.shape[-1]) for vectors in banks.get(name, [])]
            for name in inspector.score.parts
        },
    )
    for memory in inspector.memory(task).values():
        memory.scale.fill_(task + 1.0)
        for bank in memory:
            bank.fill(torch.randn(size, bank.values.shape[1], generator=generator), generator)


@torch.no_grad()
def images_between(model: MoLEFlow, count: int = 12) -> torch.Tensor:
    """Images that go to more than one of a model's products; its prototypes move to fit."""
    images = torch.randint(
        0, 256, (count, 3, *model.inspector.extractor.image_size), dtype=torch.uint8
    )
    images[count // 2 :] //= 4  # half of them are dark
    inspector = model.inspector
    joined = inspector.joined(inspector.extractor(images))
    for task, part in enumerate((joined[: count // 2], joined[count // 2 :])):
        rows = inspector.image_features(part, inspector.interest.for_task(task)).double()
        model.inspector.router.prototypes[str(task)].mean.copy_(rows.mean(0))
    model.inspector.router.forget()
    return images
