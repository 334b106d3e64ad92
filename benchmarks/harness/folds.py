"""Cross-fitting: each good image is scored by an expert that was learned without it.

For `folds` of `benchmarks.decisions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.harness.plans import Backbone, Recipe
from benchmarks.harness.products import ProductSource
from benchmarks.harness.report import Row
from benchmarks.harness.study import Result, Study
from benchmarks.harness.thresholds import judged
from moleflow_pl import PatchExtractor
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.feature_store import describe, features_key
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.tasks.oracle_scores import OracleScores
from moleflow_pl.tasks.thresholds import limit

FOLDS = 5
VAL_FRACTION = 0.1  # the default


@dataclass(frozen=True)
class Fold(ProductSource):
    """A product without one fold of its good images, which take the place of its test images.

    Attributes:
        fold: Number of the fold.
        folds: How many there are; every so-manieth image is of one.
    """

    fold: int = 0
    folds: int = FOLDS

    def train(self) -> list[ImageRecord]:
        """The good images of all other folds."""
        images = super().train()
        return [image for i, image in enumerate(images) if i % self.folds != self.fold]

    def test(self) -> list[ImageRecord]:
        """The good images of this fold."""
        return super().train()[self.fold :: self.folds]


def folds_of(source: ProductSource) -> list[Fold]:
    """The folds of a product.

    Example:
        >>> [fold.fold for fold in folds_of(ProductSource("solar_mono", layout="elpv"))]
        [0, 1, 2, 3, 4]
    """
    return [Fold(**asdict(source), fold=fold, folds=FOLDS) for fold in range(FOLDS)]


def keep_features(
    folder: Path, extractor: PatchExtractor, records: Sequence[ImageRecord], features: Tensor
) -> None:
    """Store features that are known, where a fit on these images looks for them."""
    dataset = ImageDataset(list(records), 0, extractor.image_size)
    path = folder / f"{features_key(extractor, dataset)}.npy"
    if not path.exists():
        np.save(path, features.numpy())
        describe(path)


def cross_scores(study: Study, recipe: Recipe, source: ProductSource, seed: int) -> list[float]:
    """Scores of all good images of a product, each by the expert of the other folds.

    Args:
        study: Knows the backbone, and the features of the product, which the folds share.
        recipe: How an expert is learned.
        source: The product.
        seed: Seed of every expert.
    """
    features, images = study.features(source.name).train, source.train()
    scores = [0.0] * len(images)
    for fold in folds_of(source):
        held = slice(fold.fold, None, FOLDS)
        rest = [i for i in range(len(images)) if i % FOLDS != fold.fold]
        extractor = study.plain_model.inspector.extractor
        for part, values in ((fold.train(), features[rest]), (fold.test(), features[held])):
            keep_features(study.folder / "features", extractor, part, values)
        run = Study(study.backbone, [fold], study.folder, study.most_epochs)
        result = run.run(recipe, seed, [source.name]).products[source.name]
        scores[held] = scores_of(result, recipe)
    return scores


def scores_of(result: Result, recipe: Recipe) -> list[float]:
    """Image scores in the result of a product."""
    return result[f"{recipe.scores[-1]}, oracle"]["scores"]


def tested_by(study: Study, recipe: Recipe, product: str, seed: int) -> OracleScores:
    """Oracle scores of a product's test images, learned as a recipe says."""
    found = scores_of(study.run(recipe, seed, [product]).products[product], recipe)
    labels = study.features(product).defective.tolist()
    rows = ({"gt_label": la, "oracle_score": s} for la, s in zip(labels, found, strict=True))
    return OracleScores.of(rows)


def recipes_of(backbone: Backbone) -> tuple[Recipe, Recipe]:
    """How an expert is learned that leaves calibration images out, and one that leaves none."""
    method = backbone.method
    kept_out = replace(
        method, name="calibration", scores=method.scores[-1:], val_fraction=VAL_FRACTION
    )
    return kept_out, replace(kept_out, name="cross-fitted", val_fraction=0.0)


def compare(study: Study, seed: int) -> Iterator[Row]:
    """Every product's threshold by a tenth of its good images, and by all of them, cross-fitted."""
    kept_out, all_learned = recipes_of(study.backbone)
    for product, source in study.sources.items():
        tested = tested_by(study, kept_out, product, seed)
        state = study.load(kept_out, seed, [product]).schedule.tasks[0]
        assert state.calibration is not None  # by the share that is kept out
        scores = state.calibration.scores
        yield judged(f"{product}, a tenth kept out", limit(scores), scores, tested)
        scores = cross_scores(study, all_learned, source, seed)
        tested = tested_by(study, all_learned, product, seed)
        yield judged(f"{product}, cross-fitted", limit(scores), scores, tested)
