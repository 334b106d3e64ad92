"""The runs behind `benchmarks.accuracy`: fits of the method and its rivals on three real products.

Each result is a small JSON file, and each fit a run folder with checkpoints, so that a stopped
benchmark goes on where it was. With the base given, an expert depends on seed and product alone:
the orders that begin with the same product share their fits, and one fit serves both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks.fit import new_trainer
from benchmarks.products import BANK, BATCH, Product, Scorer, nearest_in, sample_patches
from moleflow_pl import ContinualDataModule, MoLEFlow, PatchExtractor
from moleflow_pl._internal.files import replacing
from moleflow_pl.checkpoints.run_folder import TASKS
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.flow.whitening import WhiteningAdapter
from moleflow_pl.scoring.functional import IMAGE_SCORES, TAIL_QUANTILE
from moleflow_pl.scoring.memory_bank import CANDIDATES, coreset

PRODUCTS = ("solar_mono", "solar_poly", "magnetic_tile")
TRAIN_IMAGES = 250  # of each product
SEED_METHOD = Path(__file__).parent.parent / "configs" / "seed.yaml"
RECIPE = (
    "use_position", "lora_alpha", "adapter", "loss", "score", "image_score", "image_quantile",
    "router", "prototype",
)  # fmt: skip

Result = dict[str, Any]


@dataclass(frozen=True)
class ImageScore:
    """How patches' scores (N, h, w) make an image's (N,): see `moleflow_pl.scoring`."""

    name: str
    quantile: float

    @property
    def key(self) -> str:
        """Of its results."""
        return f"{self.name}-{self.quantile:g}"

    def __call__(self, patches: Tensor) -> Tensor:
        """Scores of images."""
        return IMAGE_SCORES[self.name](patches, self.quantile)


AS_PUBLISHED = ImageScore("quantile", 0.99)
AS_DEFAULT = ImageScore("tail", TAIL_QUANTILE)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: arguments of `MoLEFlow`, epochs for each task, what is held out."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    epochs: int = 10
    scores: tuple[str, ...] = ("norm",)
    lr: float | None = None
    val_fraction: float = 0.0


def seed_recipe() -> Recipe:
    """The method as it was first written down, on the features that its rivals have.

    A quarter of the patches in each step: the same gradient in expectation.
    """
    model = yaml.safe_load(SEED_METHOD.read_text())["model"]
    arguments = {name: model[name] for name in RECIPE}
    lr = model["optimizer"]["init_args"]["lr"]
    return Recipe("seed", arguments, epochs=40, scores=("nll",), lr=lr)


def records_of(
    product: str, root: str, count: int = TRAIN_IMAGES
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Images of a product to learn from, evenly spread over all there are, and to test with."""
    elpv = product.startswith("solar")
    layout = LAYOUTS["elpv" if elpv else "mvtec"](None if elpv else root)
    return evenly(layout.train(product), count), layout.test(product)


def evenly(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """At most `count` of some images, evenly spread."""
    chosen = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[i] for i in chosen]


class Study:
    """All runs on one backbone.

    Args:
        name: Of the backbone.
        backbone: Arguments of `MoLEFlow` that say which features there are, and how an image is
            scored where that is not the default.
        root: Data set of the products in MVTec AD's layout.
        folder: Where features, runs and results are kept.
        products: What is learned.
    """

    def __init__(
        self,
        name: str,
        backbone: dict[str, Any],
        root: str,
        folder: Path,
        products: Sequence[str] = PRODUCTS,
    ) -> None:
        self.name, self.backbone, self.folder, self.root = name, backbone, folder, root
        self.products = tuple(products)
        self.key = re.sub(r"\W+", "-", name)
        self.images = {product: records_of(product, root) for product in products}
        model = MoLEFlow(**backbone)
        self.extractor: PatchExtractor = model.extractor
        self.image_score = ImageScore(model.hparams["image_score"], model.hparams["image_quantile"])
        self._products: dict[str, Product] = {}

    def product(self, name: str) -> Product:
        """Features of a product."""
        if name not in self._products:
            self._products[name] = Product(
                name, self.extractor, *self.images[name], self.folder / "features"
            )
        return self._products[name]

    def result(self, key: str, make: Callable[[], Result]) -> Result:
        """The result of that name, made unless it is there."""
        path = self.folder / "results" / f"{self.key}-{key}.json"
        if not path.exists():
            made = json.dumps(make())
            with replacing(path, "w") as file:
                file.write(made)
        return json.loads(path.read_text())

    def run(self, recipe: Recipe, seed: int, first: str) -> Result:
        """All products learned, `first` first: metrics, image scores and routing of each."""
        key = f"{recipe.name}-{seed}-{first}"
        return self.result(key, partial(self._run, recipe, seed, first))

    def _run(self, recipe: Recipe, seed: int, first: str) -> Result:
        order = [first, *(name for name in self.products if name != first)]
        run = self.run_folder(recipe, seed, first)
        model = self._fitted(recipe, seed, order, run)
        alone = self.load(run / TASKS / f"00-{first}.ckpt")
        probe = self.product(first).test[:64]
        with torch.inference_mode():
            same = torch.equal(
                model.inspect(probe, 0).patch_scores, alone.inspect(probe, 0).patch_scores
            )
        found: Result = {"order": order, "first_unchanged": same, "products": {}}
        found["drift"] = [task.drift for task in model.schedule.tasks]
        found["fit_seconds"] = [task.fit_seconds for task in model.schedule.tasks]
        for name in self.products:
            found["products"][name] = self._inspected(model, recipe, name, order.index(name))
        return found

    def run_folder(self, recipe: Recipe, seed: int, first: str) -> Path:
        """Where a run's checkpoints are."""
        return self.folder / "runs" / f"{self.key}-{recipe.name}-{seed}-{first}"

    def _fitted(self, recipe: Recipe, seed: int, order: Sequence[str], run: Path) -> MoLEFlow:
        options = dict(recipe.model)
        if recipe.lr is not None:
            options["optimizer"] = partial(torch.optim.AdamW, lr=recipe.lr, weight_decay=1e-4)
        torch.manual_seed(seed)
        model = MoLEFlow(**(self.backbone | options))
        data = ContinualDataModule(
            str(self._tree()), list(order), layout="folder", val_fraction=recipe.val_fraction,
            num_workers=0, feature_store=str(self.folder / "features"), check_files=False,
        )  # fmt: skip
        last = run / "last.ckpt"
        new_trainer(run, recipe.epochs).fit(model, data, ckpt_path=last if last.exists() else None)
        return self.load(last)

    def load(self, path: Path) -> MoLEFlow:
        """The model of a checkpoint, to score with."""
        return MoLEFlow.load_from_checkpoint(path, map_location="cpu").eval()

    def _tree(self) -> Path:
        root = self.folder / "images"
        for name, (train, _) in self.images.items():
            link_images(train, root / name)
        return root

    def _inspected(self, model: MoLEFlow, recipe: Recipe, name: str, own: int) -> Result:
        product, found = self.product(name), Result()
        images = product.scores(model.image_features)
        tasks = model.router.choose(model.router.distances(images))
        for score in recipe.scores:
            model.score_by(score)
            chosen = iter(tasks.split(BATCH))
            patches = product.scores(lambda part: model.patch_scores(part, next(chosen)))  # noqa: B023
            routed = measured(product, patches, model.image_score)
            found[f"{score}, routed"] = found[f"{score}, told"] = routed
            astray = (tasks != own).nonzero()[:, 0]
            if len(astray):
                with torch.inference_mode():
                    patches[astray] = model.patch_scores(product.test[astray], own)
                found[f"{score}, told"] = measured(product, patches, model.image_score)
        right = (tasks == own).double()
        found["routing"] = {
            "good": right[~product.defective].mean().item(),
            "defective": right[product.defective].mean().item(),
        }
        return found

    def rival(self, name: str, seed: int, image: ImageScore = AS_PUBLISHED) -> Result:
        """A rival that is told the product: metrics and image scores of each product.

        Args:
            name: Of the rival.
            seed: Of its random numbers.
            image: How its patches' scores make an image's.
        """
        key = f"{name.replace(' ', '_')}-{seed}"
        key += "" if image == AS_PUBLISHED else f"-{image.key}"
        return self.result(key, partial(self._rival, name, seed, image))

    def _rival(self, name: str, seed: int, image: ImageScore) -> Result:
        found = {}
        for product in map(self.product, self.products):
            patches = product.scores(RIVALS[name](product.train, seed))
            found[product.name] = {name: measured(product, patches, image)}
        return {"products": found}


def link_images(records: Sequence[ImageRecord], folder: Path) -> None:
    """A folder of links to images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(records):
        link = folder / f"{i:04d}{record.path.suffix}"
        if not link.is_symlink():
            link.symlink_to(record.path.resolve())


def measured(product: Product, patches: Tensor, score: Scorer) -> Result:
    """Metrics of patch scores (N, h, w), and the images' scores."""
    return {**product.metrics(patches, score), "scores": score(patches).double().tolist()}


def whitened(features: Tensor) -> WhiteningAdapter:
    """Whitening by the statistics of features (N, h, w, D)."""
    statistics = FeatureStatistics(features.shape[-1])
    for part in features.split(64):
        statistics.update(part)
    adapter = WhiteningAdapter(features.shape[-1]).requires_grad_(False)
    adapter.fit(statistics)
    return adapter


def raw_bank(train: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Distance to the nearest of some training patches."""
    return nearest_in(sample_patches(train, seed))


def coreset_bank(train: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """The same among training patches that stand for the others: PatchCore without its weights."""
    rows = sample_patches(train, seed, CANDIDATES * BANK)
    return nearest_in(rows[coreset(rows, BANK, torch.Generator().manual_seed(seed))])


def whitened_bank(train: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """The same among whitened patches."""
    adapter = whitened(train)
    nearest = nearest_in(adapter(sample_patches(train, seed)))
    return lambda features: nearest(adapter(features))


def gaussian(train: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Mahalanobis distance of each patch: one Gaussian for all patches of a product."""
    adapter = whitened(train)
    return lambda features: adapter(features).square().sum(-1)


RIVALS: Mapping[str, Callable[[Tensor, int], Callable[[Tensor], Tensor]]] = {
    "raw bank": raw_bank,
    "coreset bank": coreset_bank,
    "whitened bank": whitened_bank,
    "gaussian": gaussian,
}
