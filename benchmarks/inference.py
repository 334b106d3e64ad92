"""Times scoring against the literal method, in one alternating run.

    python -m benchmarks.inference

Random weights: the time does not depend on them. The literal side has its position code made
beforehand; everything else is `benchmarks/literal.py` as it stands, backbone run twice.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial

import torch
from torch import Tensor

from benchmarks.literal import FEATURES, LiteralFlow, infer, position_code
from benchmarks.timing import Report, Row, alternate, benchmark
from moleflow_pl import MoLEFlow, MoLESpatialAwareNF
from moleflow_pl.features.extractor import Precision, has_bfloat16

PRODUCTS = 3
# name, timm model, side of the images, images in a batch
BACKBONES = [
    ("ViT-S/14 at 224", "vit_small_patch14_dinov2", 224, 12),
    ("ViT-B/14 at 518", "vit_base_patch14_dinov2", 518, 3),
]


def product_images(product: int, count: int, side: int) -> Tensor:
    """Noise of a brightness that tells the product."""
    noise = torch.rand(count, 3, side, side) * 60 + 60 * product
    return noise.to(torch.uint8)


class Pair:
    """The same products, known to the project's model and to the literal method."""

    def __init__(self, backbone: str, side: int, precision: Precision = "float32") -> None:
        torch.manual_seed(0)
        self.model = MoLEFlow(
            backbone, image_size=side, backbone_weights="random", precision=precision, **FEATURES
        )
        dim = self.model.extractor.dim
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FrEIA says that its rotations take long
            self.literal = LiteralFlow(dim)
        self.model.schedule.extend([[f"product {i}"] for i in range(PRODUCTS)], epochs=1)
        self.seen = {}
        for task in range(PRODUCTS):
            images = product_images(task, 4, side)
            self.model.begin_task(task)
            self.model.prepare_task(task, [{"image": images}])
            self.model.finish_task(task, [{"image": images}])
            self.model.schedule.tasks[task].epochs_done = 1
            self.literal.add_task(task)
            # images of one product differ by noise alone: spread out, they are a prototype
            pooled = self.model.extractor(images).mean((1, 2))
            self.seen[task] = pooled.repeat(4, 1) + 0.01 * torch.randn(16, dim)
        self.model.eval()
        self.literal.eval()
        shape = self.model.extractor(product_images(0, 1, side)).shape
        self.code = position_code(dim, *shape[1:3]).float()

    def ours(self, images: Tensor) -> Tensor:
        """Scores by the project's model."""
        with torch.no_grad():
            return self.model(images).score

    def plain(self, images: Tensor) -> Tensor:
        """Scores by the literal method."""
        return infer(self.model.extractor, self.literal, self.seen, images, self.code)[1]


def has_matrix_units() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in units of their own."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def mixed_batch(report: Report) -> None:
    """A batch of several products, routing included."""
    for name, backbone, side, count in BACKBONES:
        images = torch.cat(
            [product_images(i, count // PRODUCTS, side) for i in range(PRODUCTS)]
        )[torch.randperm(count)]  # fmt: skip
        pair = Pair(backbone, side)
        sides = {"ours": partial(pair.ours, images), "literal": partial(pair.plain, images)}
        if has_bfloat16(torch.device("cpu")):
            fast = Pair(backbone, side, "bfloat16")
            sides["bfloat16"] = partial(fast.ours, images)
        taken = alternate(sides)
        note = f"{1000 * taken['ours'] / count:.0f} ms an image, {count} of 3 products"
        ratio = taken["literal"] / taken["ours"]
        report.add(Row(f"mixed batch, {name}, float32", ratio, "x", least=1.8, note=note))
        reduced = taken["literal"] / taken["bfloat16"] if "bfloat16" in taken else None
        what = f"mixed batch, {name}, bfloat16"
        if has_matrix_units():
            report.add(Row(what, reduced, "x", least=4))
        else:
            note = "no matrix units: bfloat16 instructions only" if reduced else "no bfloat16"
            report.add(Row(what, None, "x", least=4, note=f"{note}: {reduced or 0:.2f} x"))


def products(x: Tensor, hidden: Tensor, weights: list[Tensor]) -> None:
    """The matrix products of eight blocks, and nothing else."""
    first, second, rotation = weights
    for _ in range(8):
        _ = x[:, : first.shape[1]] @ first.T
        _ = hidden @ second.T
        _ = x @ rotation.T


def flow_alone(report: Report) -> None:
    """Blocks with a merged expert, in the time their matrix products take by themselves."""
    for dim, rows in ((384, 4096), (768, 5476)):
        torch.manual_seed(0)
        flow = MoLESpatialAwareNF(dim, use_task_adapter=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            literal = LiteralFlow(dim, use_task_adapter=False)
        for task in (0, 1):
            flow.add_task(task)
            literal.add_task(task)
        features = torch.randn(1, rows, 1, dim)
        x, hidden = features.reshape(rows, dim), torch.randn(rows, dim)
        weights = [torch.randn(dim, width) for width in (dim // 2, dim, dim)]

        with torch.no_grad():
            taken = alternate(
                {
                    "ours": partial(flow, features, 1),
                    "literal": partial(literal, features),
                    "products": partial(products, x, hidden, weights),
                },
                rounds=15,
            )
        note = f"literal {taken['literal'] / taken['products']:.2f}, {rows} patches"
        ratio = taken["ours"] / taken["products"]
        most = 1.6 if has_matrix_units() else 1.15
        report.add(Row(f"flow alone, D = {dim}", ratio, "x", most=most, note=note))


if __name__ == "__main__":
    sys.exit(benchmark("inference", flow_alone, mixed_batch))
