"""Pictures of single predictions."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from moleflow_pl._internal.files import writing
from moleflow_pl.data.images import read_preview
from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.inference.localisation import pixel_map
from moleflow_pl.report.figures import heat_overlay

SIDE = 512  # pixels of a picture's longer side, at most
BOX_COLOUR = "#56b4e9"


def draw_heatmap(image: Image.Image, found: Prediction, boxes: bool = False) -> Image.Image:
    """An image under its score map, and boxes around what exceeds the pixel threshold.

    The scale is the product's, not the image's: dark is an ordinary patch, the middle of the scale
    the pixel threshold, so a good image stays dark. The product needs a calibration.
    """
    assert found.median_patch_score is not None
    assert found.pixel_threshold is not None
    high = 2 * found.pixel_threshold - found.median_patch_score
    scores = pixel_map(found.patch_scores, (image.height, image.width))
    picture = heat_overlay(image, scores, found.median_patch_score, high)
    if boxes:
        draw = ImageDraw.Draw(picture)
        height, width = found.size
        x, y = image.width / width, image.height / height
        for box in found.boxes:
            right, bottom = box.left + box.width - 1, box.top + box.height - 1
            draw.rectangle((box.left * x, box.top * y, right * x, bottom * y), outline=BOX_COLOUR)
    return picture


def save_heatmap(path: Path, found: Prediction, target: Path, boxes: bool = False) -> None:
    """Write the picture of an image file as JPEG."""
    picture = draw_heatmap(read_preview(path, SIDE), found, boxes)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, quality=85)
