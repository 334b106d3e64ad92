"""Models that are exported once and looked at by many tests."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moleflow_pl import MoLEFlow
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.runtimes import describe, write
from moleflow_pl.export.verification import answers
from tests.helpers.models import TINY_MODEL, images_between, look_right, some_tasks
from tests.helpers.shared import built_once

MODELS = {
    "vit": {"layers": [0, 1], "image_size": [48, 64]},
    "vit with registers": {
        "backbone": "vit_small_patch14_reg4_dinov2", "layers": [0, 1], "image_size": [28, 42],
    },
    "vit, latents kept": {
        "layers": [[0], [1]], "image_size": [48, 112], "score": ["depths", "groups"],
    },
    "tiled cnn": {
        "backbone": "test_efficientnet", "layers": [[1], [2]], "group_norm": "layer_norm",
        "image_size": [64, 96], "smooth": 3, "grid": 4, "tile": 64, "tile_overlap": 32,
        "router": "mahalanobis", "adapter": "film", "prototype": "mean",
        "score": ["bank", "groups"], "image_score": "quantile", "image_quantile": 0.99,
    },
}  # fmt: skip
REGIONS = {"vit": (1,), "tiled cnn": (0, 2)}  # tasks that have a region of interest
TOLERANCE = 1e-4


class Exported:
    """A model, its graph and what was made of it."""

    def __init__(self, where: Path, kind: str) -> None:
        torch.manual_seed(0)
        model = some_tasks(MoLEFlow(**{**TINY_MODEL, **MODELS[kind]}), 3)
        look_right(model, *REGIONS.get(kind, ()))
        self.images, self.model = images_between(model), model.inspector
        self.graph = InspectionGraph(self.model, map_size=48)
        self.expected = answers(self.model, self.images, self.graph)
        self.onnx, self.program = where / "m.onnx", where / "m.pt2"
        self.about = describe(self.graph, self.model.schedule)
        if not self.onnx.exists():
            write(self.graph, self.onnx, "onnx", self.about)


def exported_once(factory: pytest.TempPathFactory, kind: str) -> Exported:
    """One of `MODELS`; whoever comes first writes its file."""
    return built_once(factory, f"export {kind}", partial(Exported, kind=kind))


def pixels_of(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) as an exported file takes them."""
    return images.permute(0, 2, 3, 1).contiguous()
