"""Small data sets and models that tests share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from PIL import Image

from callbacks import EvaluationCallback, RunCheckpoint, TaskSchedulerCallback
from moleflow_pl import ContinualDataModule, MoLEFlow, MoLESpatialAwareNF
from moleflow_pl.bank import LatentBank
from moleflow_pl.calibration import Calibration
from moleflow_pl.novelty import some_patches
from moleflow_pl.state import CONFIG_KEY, CONTAINERS_KEY, STATE_KEY
from moleflow_pl.statistics import FeatureStatistics
from moleflow_pl.whitening import WhiteningAdapter

if TYPE_CHECKING:
    from tests.story import Story

SIZE = 48
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


def draw_product(root: Path, name: str, seed: int, train: int = 6, masks: bool = True) -> None:
    """A product in MVTec layout: stripes of its own width; a defect is a bright square."""
    generator = np.random.default_rng(seed)
    stripes = 60 + 40 * (np.arange(SIZE) // (3 + 2 * seed) % 2)

    def image(defective: bool) -> np.ndarray:
        picture = np.tile(stripes, (SIZE, 1)) + generator.normal(0, 4, (SIZE, SIZE))
        if defective:
            picture[10:26, 14:30] = 250
        return picture.clip(0, 255).astype(np.uint8)

    def save(picture: np.ndarray, *parts: str) -> None:
        path = root.joinpath(name, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)

    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:26, 14:30] = 255
    for i in range(train):
        save(image(False), "train", "good", f"{i:03d}.png")
    for i in range(3):
        save(image(False), "test", "good", f"{i:03d}.png")
        save(image(True), "test", "square", f"{i:03d}.png")
        if masks:
            save(mask, "ground_truth", "square", f"{i:03d}_mask.png")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products, `01`, `b` and `c`; the last has no masks."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("01", "b", "c")):
        draw_product(root, name, seed, masks=name != "c")
    return root


@pytest.fixture
def tiny_model() -> Callable[..., MoLEFlow]:
    """Builds a small model; arguments as those of `MoLEFlow`."""

    def build(**options: object) -> MoLEFlow:
        return MoLEFlow(**{**TINY_MODEL, **options})

    return build


def join(rank: int, world: int, folder: Path) -> None:
    """Make this process one of several, which find each other by a file in a folder."""
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    place = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=world)


def bare_checkpoint(config: str = "", **state: object) -> dict[str, object]:
    """The least that a checkpoint holds: a run before its first task."""
    numbers: dict[str, object] = {
        key: [] for key in ("experts", "prototypes", CONTAINERS_KEY, "tasks")
    }
    whole = {"seed": 0, "backbone": {}, "structure": {}, **numbers, **state}
    return {"state_dict": {}, STATE_KEY: whole, CONFIG_KEY: config}


def wake(flow: MoLESpatialAwareNF, std: float = 0.05) -> None:
    """Move every parameter off its start, so that zeros hide nothing."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += std * torch.randn_like(parameter)


def with_tasks(module: MoLEFlow, count: int = 2) -> MoLEFlow:
    """A model with random experts, and prototypes of random images."""
    module.schedule.extend([[f"p{i}"] for i in range(count)], epochs=1)
    for task in range(count):
        module.begin_task(task)
        images = torch.rand(6, 3, SIZE, SIZE) / (1 + task)
        module.finish_task(task, [{"image": images}])
        module.schedule.tasks[task].epochs_done = 1
    wake(module.flow)
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


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, MoLEFlow]:
    """Run folder and model of a fit of `01` and `b`; look, but do not touch."""
    run = tmp_path_factory.mktemp("run")
    return run, fit(run, data_root, ["01", "b"])


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> "Story":
    """One run by the command, in a folder of its own; copy what you change."""
    from tests.story import Story

    return Story(tmp_path_factory.mktemp("story"))


def some_tasks(model: MoLEFlow, count: int) -> MoLEFlow:
    """Give a model experts, prototypes and banks that differ, without learning anything."""
    dim = model.extractor.dim
    for task in range(count):
        model.flow.add_task(task)
        adapter, patches = model.flow.adapter_of(task), FeatureStatistics(dim)
        patches.update(torch.randn(2 * dim, dim) * (task + 1) + task)
        if isinstance(adapter, WhiteningAdapter):
            adapter.fit(patches)
        routed, ordinary = model.add_prototypes(task)
        centre = torch.randn(1, 4, 4, dim)
        routed.update(model.image_features(centre + torch.randn(50, 4, 4, dim)))
        ordinary.update(some_patches(torch.randn(20, 4, 4, dim) + task))
        if model.keeps_latents:
            bank = model.banks[str(task)] = LatentBank(dim, model.bank_size)
            bank.fill(torch.randn(model.bank_size, dim), torch.Generator().manual_seed(task))
    wake(model.flow)
    model.schedule.extend([[f"p{task}"] for task in range(count)], epochs=1)
    for task in model.schedule.tasks:
        task.epochs_done = 1
    for task in model.schedule.tasks[:2]:  # nothing of the others was held out
        task.calibration = Calibration(
            [1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [1.0, 1.0, 1.0], [8.0, 9.0, 9.0], [9.0, 12.0, 10.0]
        )
    return model.eval()


@torch.no_grad()
def images_between(model: MoLEFlow, count: int = 12) -> torch.Tensor:
    """Images that go to more than one of a model's products; its prototypes move to fit."""
    images = torch.randint(0, 256, (count, 3, *model.extractor.image_size), dtype=torch.uint8)
    images[count // 2 :] //= 4  # half of them are dark
    means = model.image_features(model.extractor(images)).double()
    for task, rows in enumerate((means[: count // 2], means[count // 2 :])):
        model.router.prototypes[str(task)].mean.copy_(rows.mean(0))
    model.router.forget()
    return images
