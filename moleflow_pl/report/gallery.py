"""Which test images a report shows: what was found, what was missed, what was mistaken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moleflow_pl.data.images import read_preview
from moleflow_pl.errors import DataError
from moleflow_pl.metrics.task_scores import TaskScores
from moleflow_pl.report.figures import heat_overlay, jpeg_uri, mask_picture

SHOWN = 3  # of each kind
SIDE = 220  # pixels of a picture's longer side
TOP_QUANTILE = 0.9  # of the images' highest scores


@dataclass
class Example:
    """One image of the gallery.

    Attributes:
        name: File name.
        caption: Score and where it was sent.
        pictures: Image, heatmap and mask as data URIs, by what they are.
    """

    name: str
    caption: str
    pictures: dict[str, str]


@dataclass
class GalleryPage:
    """The examples of one product, on one colour scale.

    Attributes:
        product: Its name.
        low: Score of the scale's dark end.
        high: Score of its bright end.
        groups: Exhibits by what they show.
    """

    product: str
    low: float
    high: float
    groups: dict[str, list[Example]]


def select(rows: Sequence[dict[str, Any]], indices: Sequence[int]) -> dict[str, list[int]]:
    """The images to show of one product, by their routed scores.

    Example:
        >>> rows = [{"gt_label": g, "score": s} for g, s in ((0, 1.0), (1, 5.0), (1, 2.0))]
        >>> select(rows, range(3))["missed worst"]
        [2, 1]
    """
    ordered = sorted(indices, key=lambda i: rows[i]["score"])
    good = [i for i in ordered if not rows[i]["gt_label"]]
    defective = [i for i in ordered if rows[i]["gt_label"]]
    return {
        "found best": defective[::-1][:SHOWN],
        "missed worst": defective[:SHOWN],
        "false alarms": good[::-1][:SHOWN],
    }


def build_gallery(scores: TaskScores, names: Sequence[str]) -> list[GalleryPage]:
    """Walls for all products of a task.

    Args:
        scores: The task's scores.
        names: Names of all tasks.
    """
    gallery = []
    for product in dict.fromkeys(row["product"] for row in scores.rows):
        indices = [i for i, row in enumerate(scores.rows) if row["product"] == product]
        low, high = _scale(scores, indices)
        groups = {
            title: [example for i in chosen if (example := _example(scores, i, names, low, high))]
            for title, chosen in select(scores.rows, indices).items()
        }
        gallery.append(GalleryPage(product, low, high, {k: v for k, v in groups.items() if v}))
    return gallery


def _scale(scores: TaskScores, indices: Sequence[int]) -> tuple[float, float]:
    """One scale for a product: from its good images' middle to what a plain defect reaches."""
    seen = [(one[::8, ::8].median(), one.max()) for one, _ in scores.maps(indices)]
    middles = [m for i, (m, _) in zip(indices, seen, strict=True) if not scores.rows[i]["gt_label"]]
    low = torch.stack(middles or [middle for middle, _ in seen]).median().item()
    return low, torch.stack([top for _, top in seen]).quantile(TOP_QUANTILE).item()


def _example(
    scores: TaskScores, image: int, names: Sequence[str], low: float, high: float
) -> Example | None:
    row = scores.rows[image]
    try:
        picture = read_preview(Path(row["path"]), SIDE)
    except DataError:
        return None  # gone or spoilt since it was scored
    ((heat, mask),) = scores.maps([image])
    pictures = {
        "image": jpeg_uri(picture),
        "heatmap": jpeg_uri(heat_overlay(picture, heat, low, high)),
    }
    if scores.has_mask(image):
        pictures["mask"] = jpeg_uri(mask_picture(mask, picture.size))
    sent = row["routed_task"]
    where = "" if sent == scores.task else f", sent to {names[sent]}"
    return Example(
        Path(row["path"]).name, f"{row['defect']}, score {row['score']:.1f}{where}", pictures
    )
