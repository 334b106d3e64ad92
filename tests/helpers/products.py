"""Products of tiny images that tests draw."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 48


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
