"""Which images of twins find their expert, by what the router looks at.

    python -m benchmarks.routing --root DATA --weights vit_small_patch14_dinov2.safetensors

Prototypes of the products of `benchmarks.accuracy`, on its images and backbones, of each kind that
`MoLEFlow` knows, of regions of several sizes, and of the nearest of the default regions, whatever
the boundary. They are chosen by good images that were not learned from, whole, damaged and in
other light; defective test images confirm. No expert is trained. Prints a table, and one line of
JSON last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.functional import adjust_brightness

from benchmarks.accuracy import backbones_parser, study_of
from benchmarks.accuracy_runs import PRODUCTS, Study, evenly, records_of
from benchmarks.products import BATCH
from benchmarks.timing import Report, Row, benchmark
from moleflow_pl import MoLEFlow, PatchExtractor
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.routing.image_features import REGIONS, region_means
from moleflow_pl.routing.novelty import DAMAGES
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.region_router import RegionRouter
from moleflow_pl.routing.router import PrototypeRouter

HELD_OUT = 120  # good images of a product, at most
ALL = 10**6
WHOLE = ("mean", "median")  # kinds that look at an image as a whole
SIDES = (1, 2, 4, 8, 16)  # regions along each side of an image
LIGHTS = {"twice the light": 2.0, "a third of it": 1 / 3}

Features = dict[str, dict[str, Tensor]]  # by product and by what befell the images


def held_out(study: Study, product: str, extractor: PatchExtractor) -> dict[str, Tensor]:
    """Features of good images that were not learned from, whole, damaged and in other light."""
    learned = {record.path for record in study.images[product][0]}
    every, _ = records_of(product, study.root, ALL)
    rest = [record for record in every if record.path not in learned]
    images = ImageDataset(evenly(rest, HELD_OUT), 0, extractor.image_size)
    found: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for batch in DataLoader(images, BATCH, collate_fn=images.collate):
            ways = {"whole": batch["image"]}
            ways |= {damage.__name__: damage(batch["image"]) for damage in DAMAGES}
            ways |= {
                name: adjust_brightness(batch["image"], light) for name, light in LIGHTS.items()
            }
            for way, pixels in ways.items():
                found.setdefault(way, []).append(extractor(pixels))
    return {way: torch.cat(parts) for way, parts in found.items()}


def routing(
    router: PrototypeRouter,
    look_at: Callable[[Tensor], Tensor],
    regions: int | None,
    study: Study,
    asked: Features,
) -> dict[tuple[str, str], float]:
    """Share of images that find their product, by product and by what befell them."""
    for task, product in enumerate(PRODUCTS):
        prototype = TaskPrototype(study.extractor.dim, regions)
        for part in study.product(product).train.split(BATCH):
            prototype.update(look_at(part))
        router.add_prototype(task, prototype)
    found = {}
    for task, product in enumerate(PRODUCTS):
        for way, features in asked[product].items():
            routed = torch.cat([router.route(look_at(part)) for part in features.split(BATCH)])
            found[product, way] = (routed == task).double().mean().item()
    return found


def look(report: Report, name: str, given: argparse.Namespace) -> None:
    """All kinds of prototypes and sizes of regions on one backbone."""
    study = study_of(given, name)
    asked: Features = {}
    for product in PRODUCTS:
        asked[product] = held_out(study, product, study.extractor)
        features = study.product(product)
        asked[product]["defective"] = features.test[features.defective]
        asked[product]["good"] = features.test[~features.defective]
    kinds: dict[str, tuple[PrototypeRouter, Callable[[Tensor], Tensor], int | None]] = {}
    for whole in WHOLE:
        model = MoLEFlow(**study.backbone, prototype=whole)
        kinds[whole] = (model.router, model.image_features, None)
    for side in SIDES:
        kinds[f"regions {side} x {side}"] = (
            RegionRouter(),
            partial(region_means, side=side),
            side**2,
        )
    kinds["regions, the nearest"] = (PrototypeRouter("pooled"), region_means, REGIONS)
    for kind, parts in kinds.items():
        for (product, way), share in routing(*parts, study, asked).items():
            note = f"{len(asked[product][way])} images"
            report.add(Row(f"{name}, {kind}: {product}, {way}", share, "", note=note))


def main() -> int:
    """Ask, print."""
    given = backbones_parser(__doc__, seeds=[]).parse_args()  # nothing is drawn
    parts = [partial(look, name=name, given=given) for name in given.backbones]
    return benchmark("routing", *parts)


if __name__ == "__main__":
    sys.exit(main())
