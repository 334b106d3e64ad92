"""Fits and baselines on one backbone: cached, so that a stopped study resumes.

A result is a small JSON file named by a hash of everything it depends on, a fit is a run folder
with its checkpoints, and features are shared on disk. On a given base, an expert depends only on
seed and product, so orders that begin with the same product give the same figures.

For `benchmarks.accuracy`, `ablation`, `drift`, and `folds` of `benchmarks.decisions`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from benchmarks.harness.baselines import BASELINES
from benchmarks.harness.fits import learn, load_model
from benchmarks.harness.plans import Backbone, Recipe
from benchmarks.harness.products import (
    BATCH,
    GUIDED,
    ImageScore,
    ProductFeatures,
    ProductSource,
    Scorer,
    link_images,
)
from moleflow_pl import MoLEFlow
from moleflow_pl._internal.files import replacing
from moleflow_pl.checkpoints.run_folder import TASKS
from moleflow_pl.data.integrity import ImageCheck
from moleflow_pl.data.splits import ProductSplits
from moleflow_pl.model.build import build_scores
from moleflow_pl.scoring.patch_scores import PatchScore

PROBE = 64  # test images of the first product that are scored again after the last

Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Results of one fit or of one baseline.

    Attributes:
        seed: Its seed.
        order: Products in the order in which they were learned; empty for a baseline.
        products: Results by product and by column: metrics and image scores.
        facts: Results of the run as a whole.
    """

    seed: int
    order: tuple[str, ...]
    products: Mapping[str, Result]
    facts: Result = field(default_factory=dict)


def scores_named(name: str) -> list[PatchScore]:
    """Patch scores from the name of a column; `+` separates the parts of a sum."""
    return build_scores(name.split("+"))


def with_guided(product: ProductFeatures, patches: Tensor, score: Scorer) -> Result:
    """The result of patch scores (N, h, w), with the pixel AP of guided maps."""
    return {**product.result(patches, score), GUIDED: product.guided_pixel_ap(patches)}


class Study:
    """All runs on one backbone.

    Args:
        backbone: The backbone and its settings.
        products: The products.
        folder: Folder of features, runs and results.
        most_epochs: Upper limit on a recipe's epochs, for a small run.
    """

    def __init__(
        self,
        backbone: Backbone,
        products: Sequence[ProductSource],
        folder: Path,
        most_epochs: int | None = None,
    ) -> None:
        self.backbone, self.folder, self.most_epochs = backbone, folder, most_epochs
        self.sources = {source.name: source for source in products}
        self.features = cache(self._features)

    @property
    def products(self) -> tuple[str, ...]:
        """Names of the products."""
        return tuple(self.sources)

    @cached_property
    def plain_model(self) -> MoLEFlow:
        """An untrained model, for its extractor and its settings."""
        return MoLEFlow(**self.backbone.arguments)

    @cached_property
    def image_score(self) -> ImageScore:
        """How the method scores images on this backbone."""
        settings = self.plain_model.hparams
        return ImageScore(settings["image_score"], settings["image_quantile"])

    def _features(self, product: str) -> ProductFeatures:
        """Features of a product."""
        source, extractor = self.sources[product], self.plain_model.inspector.extractor
        folder = self.folder / "features"
        return ProductFeatures(product, extractor, source.train(), source.test(), folder)

    def cached(self, key: str, compute: Callable[[], Result]) -> Result:
        """The result of a key, computed unless its file exists."""
        path = self.folder / "results" / f"{key}.json"
        if not path.exists():
            text = json.dumps(compute())
            with replacing(path, "w") as file:
                file.write(text)
        return json.loads(path.read_text())

    def cached_tensors(
        self, key: str, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors of that key, computed unless their file is there."""
        path = self.folder / "results" / f"{key}.safetensors"
        if not path.exists():
            content = save(compute())
            with replacing(path, "wb") as file:
                file.write(content)
        return load_file(path)

    def key(self, *names: object, products: Sequence[str], **facts: object) -> str:
        """A readable name with a hash of the backbone, some products and other facts."""
        facts["backbone"] = dict(self.backbone.arguments)
        facts["products"] = [asdict(self.sources[name]) for name in products]
        digest = hashlib.sha256(json.dumps([names, facts], sort_keys=True).encode()).hexdigest()
        readable = re.sub(r"\W+", "-", "-".join(map(str, (self.backbone.name, *names))))
        return f"{readable}-{digest[:12]}"

    def limited(self, recipe: Recipe) -> Recipe:
        """A recipe within this study's limit of epochs."""
        return replace(recipe, epochs=min(recipe.epochs, self.most_epochs or recipe.epochs))

    def run_key(self, recipe: Recipe, seed: int, order: Sequence[str]) -> str:
        """The key of a fit."""
        facts = asdict(self.limited(recipe))
        return self.key(recipe.name, seed, order[0], products=order, recipe=facts)

    def run_folder(self, recipe: Recipe, seed: int, order: Sequence[str]) -> Path:
        """Where the checkpoints of a fit are."""
        return self.folder / "runs" / self.run_key(recipe, seed, order)

    def load(self, recipe: Recipe, seed: int, order: Sequence[str]) -> MoLEFlow:
        """The model of a fit that `run` has finished."""
        return load_model(self.run_folder(recipe, seed, order) / "last.ckpt")

    def learn(self, recipe: Recipe, seed: int, order: Sequence[str]) -> Result:
        """Learn products in that order, unless that was done before; facts of the fit."""
        key = self.run_key(recipe, seed, order)
        return self.cached(f"{key}-facts", partial(self._fit, recipe, seed, order))

    def run(self, recipe: Recipe, seed: int, order: Sequence[str]) -> Run:
        """Learn products in an order, and evaluate each of them at the end."""
        key, facts = self.run_key(recipe, seed, order), self.learn(recipe, seed, order)
        model = cache(partial(self.load, recipe, seed, order))  # loaded only if a result is missing
        products = {
            name: self.cached(f"{key}-{name}", lambda: self._evaluate(model(), recipe, name, task))  # noqa: B023
            for task, name in enumerate(order)
        }
        return Run(seed, tuple(order), products, facts)

    def _fit(self, recipe: Recipe, seed: int, order: Sequence[str]) -> Result:
        """Learn products, from the last checkpoint if there is one."""
        run, recipe = self.run_folder(recipe, seed, order), self.limited(recipe)
        options = dict(recipe.model)
        if recipe.lr is not None:
            options["optimizer"] = partial(torch.optim.AdamW, lr=recipe.lr, weight_decay=1e-4)
        torch.manual_seed(seed)
        model = MoLEFlow(**{**self.backbone.arguments, **options})
        last = run / "last.ckpt"
        learn(
            model, self._image_tree(), run, order, recipe.epochs,
            last if last.exists() else None, layout="folder", num_workers=0,
            val_fraction=recipe.val_fraction, feature_store=str(self.folder / "features"),
            check_files=False,
        )  # fmt: skip
        tasks = load_model(last).schedule.tasks
        return {
            "first_unchanged": self._first_unchanged(run, order[0]),
            "drift": [task.drift for task in tasks],
            "fit_seconds": [task.fit_seconds for task in tasks],
        }

    def split(self, recipe: Recipe, product: str) -> tuple[Tensor, Tensor]:
        """Features of the images that a recipe learns a product from, and that calibrate it."""
        root = str(self._image_tree())
        splits = ProductSplits("folder", root, recipe.val_fraction, ImageCheck())
        places = [
            [int(record.path.stem) for record in splits.records(product, part)]
            for part in ("train", "val")
        ]
        features = self.features(product).train
        return features[places[0]], features[places[1]]

    def _image_tree(self) -> Path:
        """A data set of links to the training images."""
        root = self.folder / "images" / self.key(products=self.products)
        for name, source in self.sources.items():
            link_images(source.train(), root / name)
        return root

    def _first_unchanged(self, run: Path, first: str) -> bool:
        """Whether the first product's oracle scores are bit-equal after the last task."""
        probe = self.features(first).test[:PROBE]
        before, after = (
            load_model(path).inspector
            for path in (run / TASKS / f"00-{first}.ckpt", run / "last.ckpt")
        )
        with torch.inference_mode():
            return torch.equal(before.patch_scores(probe, 0), after.patch_scores(probe, 0))

    def _evaluate(self, model: MoLEFlow, recipe: Recipe, name: str, task: int) -> Result:
        """Routed and oracle results of a product by every score of the recipe."""
        product, inspector, results = self.features(name), model.inspector, Result()
        images = product.scores(lambda part: inspector.image_features(inspector.joined(part)))
        tasks = inspector.router.route(images)
        misrouted = (tasks != task).nonzero()[:, 0]
        for score in recipe.scores:
            inspector.set_patch_scores(scores_named(score))
            chosen = iter(tasks.split(BATCH))
            patches = product.scores(lambda part: inspector.patch_scores(part, next(chosen)))  # noqa: B023
            routed = with_guided(product, patches, inspector.image_score)
            results[f"{score}, routed"] = results[f"{score}, oracle"] = routed
            if len(misrouted):
                with torch.inference_mode():
                    patches[misrouted] = inspector.patch_scores(product.test[misrouted], task)
                oracle = with_guided(product, patches, inspector.image_score)
                results[f"{score}, oracle"] = oracle
        right = (tasks == task).double()
        results["routing"] = {
            "good": right[~product.defective].mean().item(),
            "defective": right[product.defective].mean().item(),
        }
        return results

    def baseline(self, name: str, seed: int, images: Sequence[ImageScore]) -> Run:
        """A baseline on every product; a column of its results is the key of an image score.

        Args:
            name: A baseline of `BASELINES`.
            seed: Seed of its random numbers.
            images: Image scores that its patch scores are turned into.
        """
        keys = [image.key for image in images]
        products = {
            product: self.cached(
                self.key(name, seed, product, products=[product], image_scores=keys),
                partial(self._baseline, name, seed, product, images),
            )
            for product in self.products
        }
        return Run(seed, (), products)

    def _baseline(self, name: str, seed: int, product: str, images: Sequence[ImageScore]) -> Result:
        features = self.features(product)
        groups = self.plain_model.inspector.extractor.groups
        patches = features.scores(BASELINES[name](features.train, seed, groups))
        guided = features.guided_pixel_ap(patches)
        return {image.key: {**features.result(patches, image), GUIDED: guided} for image in images}
