"""Heatmaps of single predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from moleflow_pl._internal.files import writing
from moleflow_pl.data.image_forms import Channels, ImageLike, as_rgb
from moleflow_pl.inference.localisation import PictureFormat, defect_mask, outline
from moleflow_pl.scoring.guided_map import guides_of, pixel_map

if TYPE_CHECKING:
    from moleflow_pl.inference.decisions import Prediction

PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG"}
QUALITY = 85  # of a JPEG
HEAT_MAP = "inferno"  # of matplotlib
OVERLAY = 0.55
BOX_COLOUR = "#56b4e9"


def draw_heatmap(
    image: ImageLike, prediction: Prediction, boxes: bool = False, channels: Channels = "rgb"
) -> Image.Image:
    """Blend an image with its score map; draw boxes and contours of its defects.

    The scale is the product's, not the image's: it starts at the median patch score and has the
    pixel threshold in its middle, so a good image stays dark but for a few spots. Without a
    calibration, the scale is that of the map.

    Args:
        image: The image, or a copy of another size.
        prediction: Its prediction.
        boxes: Draw the boxes and the contours.
        channels: The order of the channels in an array or a tensor; `bgr` for those of OpenCV.
    """
    rgb = as_rgb(image, channels)
    scores = pixel_map(prediction.patch_scores, (rgb.height, rgb.width), prediction.guide)
    picture = heat_overlay(rgb, scores, *scale_of(prediction))
    if boxes and prediction.boxes:
        assert prediction.pixel_threshold is not None
        edge = outline(defect_mask(scores, prediction.pixel_threshold))
        picture.paste(BOX_COLOUR, mask=Image.fromarray(edge))
        draw_boxes(picture, prediction)
    return picture


def map_on(picture: Image.Image, patch_scores: Tensor) -> Tensor:
    """The map (H, W) of patch scores (h, w) that follows an RGB picture, for its pixels."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    height, width = patch_scores.shape
    (guide,) = guides_of(pixels, (height, width))
    return pixel_map(patch_scores, (picture.height, picture.width), guide)


def scale_of(prediction: Prediction) -> tuple[float, float]:
    """The scores at both ends of the colours."""
    low, middle = prediction.median_patch_score, prediction.pixel_threshold
    if low is None or middle is None:
        return prediction.patch_scores.min().item(), prediction.patch_scores.max().item()
    return colour_ends(low, middle)


def colour_ends(low: float, middle: float) -> tuple[float, float]:
    """The scores at both ends of the colours, of a median patch score and a pixel threshold."""
    return low, 2 * middle - low


def draw_boxes(picture: Image.Image, prediction: Prediction) -> None:
    """Draw the boxes of a prediction at the picture's scale."""
    draw = ImageDraw.Draw(picture)
    height, width = prediction.size
    x, y = picture.width / width, picture.height / height
    for box in prediction.boxes:
        right, bottom = box.left + box.width - 1, box.top + box.height - 1
        draw.rectangle((box.left * x, box.top * y, right * x, bottom * y), outline=BOX_COLOUR)


def heat_overlay(image: Image.Image, scores: Tensor, low: float, high: float) -> Image.Image:
    """Blend an image with its score map (H, W), coloured between `low` and `high`."""
    from matplotlib import (
        colormaps,
    )  # imported here, since it is slow and most commands draw nothing

    share = ((scores - low) / max(high - low, 1e-12)).clamp(0, 1)
    coloured = (colormaps[HEAT_MAP](share.numpy())[..., :3] * 255).astype(np.uint8)
    heat = Image.fromarray(coloured).resize(image.size, Image.Resampling.BILINEAR)
    return Image.blend(image.convert("RGB"), heat, OVERLAY)


def save_picture(picture: Image.Image, target: Path, form: PictureFormat) -> None:
    """Write a picture."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        options = {"quality": QUALITY} if form == "jpg" else {}
        picture.save(target, format=PILLOW_FORMATS[form], **options)
