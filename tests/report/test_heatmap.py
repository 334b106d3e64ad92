from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.report.heatmap import draw_heatmap, save_heatmap

SIDE = 512


def prediction(patches: torch.Tensor, size: tuple[int, int]) -> Prediction:
    return Prediction(
        "a", 0.0, 0.0, None, patches, size, "normal", pixel_threshold=10.0, median_patch_score=0.0
    )  # fmt: skip


def test_ordinary_images_stay_dark_and_defects_glow() -> None:
    grey = Image.new("RGB", (40, 40), (120, 120, 120))
    good, bad = torch.full((4, 4), 0.5), torch.zeros(4, 4)
    bad[1, 1] = 20
    dark = np.asarray(draw_heatmap(grey, prediction(good, (40, 40)))).astype(int)
    lit = np.asarray(draw_heatmap(grey, prediction(bad, (40, 40)))).astype(int)
    # its own range would light up the good one too
    assert dark.max() - dark.min() < 10
    assert lit[15, 15, 0] > dark.max() + 80
    assert abs(lit[39, 39] - dark[39, 39]).max() < 10


def test_boxes_are_drawn_at_the_pictures_scale(tmp_path: Path) -> None:
    patches = torch.zeros(4, 4)
    patches[1, 2] = 20
    small = Image.new("RGB", (SIDE, SIDE // 2), (100, 100, 100))
    found = prediction(patches, (2 * SIDE, 4 * SIDE))
    save_heatmap(small, found, tmp_path / "out" / "a.jpg", boxes=True)
    picture = Image.open(tmp_path / "out" / "a.jpg")
    assert picture.size == (SIDE, SIDE // 2)
    (box,) = found.boxes
    blue = np.asarray(picture)[..., 2].astype(int) - np.asarray(picture)[..., 0]
    rows, columns = np.nonzero(blue > 80)
    assert abs(columns.min() - box.left / 4) <= 2
    assert abs(rows.max() - (box.top + box.height) / 4) <= 2
