"""Routing accuracy by kind of prototype, with two very similar products.

For `routing` of `benchmarks.ablation`. The kinds are those that `MoLEFlow` has, regions of several
sizes, and the nearest of the default regions, as published. No expert is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms.functional import adjust_brightness

from benchmarks.harness.products import BATCH, ProductSource, evenly, loader_of
from benchmarks.harness.report import Report, Row
from benchmarks.harness.study import Study
from moleflow_pl import PatchExtractor
from moleflow_pl.routing.image_features import IMAGE_FEATURES, REGIONS, region_means
from moleflow_pl.routing.novelty import DAMAGES
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.region_router import RegionRouter
from moleflow_pl.routing.router import PrototypeRouter

GOOD_IMAGES = 120  # of a product beyond the training images, at most
WHOLE = ("mean", "median")  # kinds without regions
SIDES = (1, 2, 4, 8, 16)  # regions along each side of an image
LIGHTS = {
    "0.7 of the light": 0.7,
    "1.4 of the light": 1.4,
    "twice the light": 2.0,
    "a third of the light": 1 / 3,
}

Queries = dict[str, dict[str, Tensor]]  # features by product and by condition


@dataclass(frozen=True)
class Kind:
    """A kind of prototype.

    Attributes:
        name: Its name.
        router: An empty router.
        summary: Reduces features (B, h, w, D) to the router's input.
        regions: Number of regions; None without regions.
    """

    name: str
    router: PrototypeRouter
    summary: Callable[[Tensor], Tensor]
    regions: int | None = None


def kinds_of(study: Study) -> list[Kind]:
    """All kinds, each with an empty router."""
    kinds = []
    for whole in WHOLE:
        kinds.append(Kind(whole, PrototypeRouter("pooled"), IMAGE_FEATURES[whole]()))
    for side in SIDES:
        summary = partial(region_means, side=side)
        kinds.append(Kind(f"regions {side} x {side}", RegionRouter(), summary, side**2))
    nearest = PrototypeRouter("pooled")
    return [*kinds, Kind("regions, the nearest", nearest, region_means, REGIONS)]


def good_images(source: ProductSource, extractor: PatchExtractor) -> Mapping[str, Tensor]:
    """Features of good images beyond the training images: whole, damaged, in other light."""
    rest = source.unused() or [record for record in source.test() if not record.gt_label]
    chosen = evenly(rest, min(GOOD_IMAGES, source.train_images))
    features: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for batch in loader_of(chosen, extractor.image_size):
            whole = batch["image"]
            conditions = {"whole": whole}
            conditions |= {damage.__name__: damage(whole) for damage in DAMAGES}
            conditions |= {name: adjust_brightness(whole, light) for name, light in LIGHTS.items()}
            for condition, pixels in conditions.items():
                joined = extractor.groups.joined(extractor(pixels))
                features.setdefault(condition, []).append(joined)
    return {condition: torch.cat(parts) for condition, parts in features.items()}


def queries_of(study: Study) -> Queries:
    """Features of the images that are routed."""
    queries: Queries = {}
    for name, source in study.sources.items():
        product = study.features(name)
        queries[name] = dict(good_images(source, study.plain_model.inspector.extractor))
        test = study.plain_model.inspector.joined(product.test)
        queries[name]["defective"] = test[product.defective]
        queries[name]["good"] = test[~product.defective]
    return queries


def accuracies(kind: Kind, study: Study, queries: Queries) -> dict[tuple[str, str], float]:
    """Routing accuracy by product and by condition."""
    for task, name in enumerate(study.products):
        prototype = TaskPrototype(study.plain_model.inspector.extractor.dim, kind.regions)
        for part in study.features(name).train.split(BATCH):
            prototype.update(kind.summary(study.plain_model.inspector.joined(part)))
        kind.router.add_prototype(task, prototype)
    result = {}
    for task, name in enumerate(study.products):
        for condition, features in queries[name].items():
            parts = [kind.router.route(kind.summary(part)) for part in features.split(BATCH)]
            result[name, condition] = (torch.cat(parts) == task).double().mean().item()
    return result


def compare_kinds(report: Report, study: Study) -> None:
    """All kinds on one backbone."""
    queries = queries_of(study)
    for kind in kinds_of(study):
        for (name, condition), share in accuracies(kind, study, queries).items():
            note = f"{len(queries[name][condition])} images"
            what = f"{study.backbone.name}, {kind.name}: {name}, {condition}"
            report.add(Row(what, share, "", note=note))
