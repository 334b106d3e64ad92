"""From predictions to rows, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from moleflow_pl.data.images import to_tensor
from moleflow_pl.inference.decisions import Prediction
from moleflow_pl.scoring.guided_map import guides_of
from moleflow_pl.service.database import Inspection, Review

COLUMNS = (
    "product", "label", "score", "threshold", "normalised_score", "novelty_ratio",
    "router_distance", "router_margin", "brightness",
)  # fmt: skip
OURS = ("size", "product", "score", "router_distance")  # fields without a default


def inspection_of(prediction: Prediction, **values: Any) -> Inspection:
    """A row for a prediction.

    Args:
        prediction: The prediction.
        values: The columns that do not follow from it.
    """
    plain, scores = prediction.to_dict(), prediction.patch_scores.numpy()
    return Inspection(
        **{name: plain[name] for name in COLUMNS},
        prediction=plain,
        patch_scores=scores.astype("<f4").tobytes(),
        grid=[*scores.shape],
        reviews=[],
        **values,
    )


def prediction_of(inspection: Inspection, image: Image.Image | None = None) -> Prediction:
    """The prediction of a row with its map; infinite numbers have become NaN.

    Args:
        inspection: The row.
        image: Its image at any size, which the map then follows.
    """
    plain = {name: value for name, value in inspection.prediction.items() if name != "boxes"}
    scores = np.frombuffer(inspection.patch_scores, "<f4").reshape(inspection.grid)
    missing = {name: float("nan") for name in OURS if plain[name] is None}
    size = tuple(plain.pop("size"))
    guide, (height, width) = None, inspection.grid
    if image is not None:
        pixels = to_tensor(image, (image.height, image.width))
        guide = guides_of(pixels[None], (height, width))[0]
    return Prediction(
        **{**plain, **missing},
        patch_scores=torch.from_numpy(scores.astype(np.float32)),
        size=size,
        guide=guide,
    )


def as_json(inspection: Inspection) -> dict[str, Any]:
    """A row as JSON: the prediction and the facts about the image."""
    review = inspection.review
    return {
        "id": inspection.id,
        "time": inspection.time,
        "source": inspection.source,
        "image": inspection.image_name,
        "model": inspection.model,
        "seconds": inspection.seconds,
        **inspection.prediction,
        "review": None if review is None else review_json(review),
    }


def review_json(review: Review) -> dict[str, Any]:
    """A review as JSON."""
    names = ("id", "verdict", "product", "who", "when")
    return {name: getattr(review, name) for name in names}
