from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl import Prediction, draw_heatmap
from moleflow_pl.inference.heatmap import heat_overlay, save_picture

SIDE = 512


def prediction(patches: torch.Tensor, size: tuple[int, int]) -> Prediction:
    return Prediction(
        "a", 0.0, 0.0, None, patches, size, "anomalous",
        pixel_threshold=10.0, median_patch_score=0.0,
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


def test_boxes_are_drawn_at_the_pictures_scale() -> None:
    patches = torch.zeros(4, 4)
    patches[1, 2] = 20
    small = Image.new("RGB", (SIDE, SIDE // 2), (100, 100, 100))
    found = prediction(patches, (2 * SIDE, 4 * SIDE))
    picture = draw_heatmap(small, found, boxes=True)
    assert picture.size == (SIDE, SIDE // 2)
    (box,) = found.boxes
    blue = np.asarray(picture)[..., 2].astype(int) - np.asarray(picture)[..., 0]
    rows, columns = np.nonzero(blue > 80)
    assert abs(columns.min() - box.left / 4) <= 2
    assert abs(rows.max() - (box.top + box.height) / 4) <= 2


@pytest.mark.parametrize(("form", "kind"), [("jpg", "JPEG"), ("png", "PNG")])
def test_a_picture_is_of_the_format_that_was_asked_for_and_in_colour(
    form: str, kind: str, tmp_path: Path
) -> None:
    orange = Image.new("RGB", (40, 40), (250, 120, 10))
    picture = draw_heatmap(orange, prediction(torch.zeros(4, 4), (40, 40)))
    save_picture(picture, tmp_path / "deep" / "x", form)  # type: ignore[arg-type]
    with Image.open(tmp_path / "deep" / "x") as found:
        assert found.format == kind
        red, green, blue = np.asarray(found.convert("RGB"))[20, 20].astype(int)
    assert red - 40 > green > blue + 30


def test_contours_follow_the_defect_where_the_box_is_a_rectangle() -> None:
    patches = torch.zeros(8, 8)
    patches[2, 2:6], patches[2:6, 2] = 40, 40
    grey = Image.new("RGB", (80, 80), (100, 100, 100))
    found = prediction(patches, (80, 80))
    plain, marked = (np.asarray(draw_heatmap(grey, found, boxes=b)).astype(int) for b in (0, 1))
    changed = (plain != marked).any(2)
    (box,) = found.boxes
    inner = changed[box.top + 2 : box.top + box.height - 2, box.left + 2 : box.left + box.width - 2]
    mask = found.mask[
        box.top + 2 : box.top + box.height - 2, box.left + 2 : box.left + box.width - 2
    ]
    assert inner.any()
    assert not (inner & ~mask).any()
    assert not inner.all()


def test_a_prediction_draws_itself_on_its_image_or_on_black() -> None:
    found = prediction(torch.tensor([[0.0, 20.0], [0.0, 0.0]]), (30, 40))
    assert found.plot().size == (40, 30)
    image = np.full((30, 40, 3), 200, np.uint8)
    assert found.plot(image, boxes=False).tobytes() == draw_heatmap(image, found).tobytes()
    uncalibrated = Prediction("a", 0.0, 0.0, None, found.patch_scores, (30, 40))
    pixels = np.asarray(uncalibrated.plot()).sum(2)
    assert pixels[2, 37] > pixels[27, 2]


def test_frame_of_opencv_is_drawn_in_its_own_colours() -> None:
    found = prediction(torch.zeros(2, 2), (30, 40))
    red = np.zeros((30, 40, 3), np.uint8)
    red[..., 0] = 200
    bgr = np.ascontiguousarray(red[..., ::-1])
    for draw in (found.plot, lambda image, **given: draw_heatmap(image, found, **given)):
        assert draw(bgr, channels="bgr").tobytes() == draw(red).tobytes() != draw(bgr).tobytes()


def test_overlay_is_bright_where_the_score_is_high() -> None:
    scores = torch.zeros(8, 8)
    scores[:, 4:] = 10
    overlay = np.asarray(heat_overlay(Image.new("RGB", (40, 20)), scores, 0, 10)).sum(-1)
    assert overlay.shape == (20, 40)
    assert overlay[:, 30:].min() > overlay[:, :10].max()
