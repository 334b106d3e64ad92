"""Heatmaps of single predictions."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from moleflow_pl._internal.files import writing
from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.inference.localisation import pixel_map
from moleflow_pl.report.figures import heat_overlay

BOX_COLOUR = "#56b4e9"


def draw_heatmap(image: Image.Image, prediction: Prediction, boxes: bool = False) -> Image.Image:
    """Blend an image with its score map, and draw boxes around what exceeds the pixel threshold.

    The scale is the product's, not the image's: it starts at the median patch score and has the
    pixel threshold in its middle, so a good image stays dark. The product must be calibrated.
    """
    assert prediction.median_patch_score is not None
    assert prediction.pixel_threshold is not None
    high = 2 * prediction.pixel_threshold - prediction.median_patch_score
    scores = pixel_map(prediction.patch_scores, (image.height, image.width))
    picture = heat_overlay(image, scores, prediction.median_patch_score, high)
    if boxes:
        draw = ImageDraw.Draw(picture)
        height, width = prediction.size
        x, y = image.width / width, image.height / height
        for box in prediction.boxes:
            right, bottom = box.left + box.width - 1, box.top + box.height - 1
            draw.rectangle((box.left * x, box.top * y, right * x, bottom * y), outline=BOX_COLOUR)
    return picture


def save_heatmap(
    image: Image.Image, prediction: Prediction, target: Path, boxes: bool = False
) -> None:
    """Write the heatmap of an image, or of a small copy of it, as JPEG."""
    picture = draw_heatmap(image, prediction, boxes)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, format="JPEG", quality=85)
