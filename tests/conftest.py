"""Small data sets and models that tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl import MoLEFlow, MoLESpatialAwareNF

SIZE = 48
TINY_MODEL = {
    "backbone": "test_vit",
    "layers": [0, 1],
    "image_size": SIZE,
    "backbone_weights": "random",
    "coupling_layers": 2,
    "lora_rank": 2,
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


def wake(flow: MoLESpatialAwareNF, std: float = 0.05) -> None:
    """Move every parameter off its start, so that zeros hide nothing."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += std * torch.randn_like(parameter)
