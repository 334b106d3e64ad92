"""The gallery of a report: found and missed defects, false alarms, and unknown products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from moleflow_pl.data.images import read_rgb, shrink
from moleflow_pl.data.variants import apply_variant
from moleflow_pl.errors import DataError
from moleflow_pl.inference.heatmap import colour_ends, heat_overlay, map_on
from moleflow_pl.metrics.decisions import ANOMALOUS, NORMAL, UNKNOWN
from moleflow_pl.metrics.task_scores import TaskScores
from moleflow_pl.report.figures import jpeg_uri, mask_picture
from moleflow_pl.tasks.calibration import ImageKind, Limits

EXAMPLES = 3  # in each group
SIDE = 220  # longer side of a picture, in pixels
TOP_QUANTILE = 0.9  # the scale ends at this quantile of the images' highest patch scores


@dataclass
class Example:
    """One image of the gallery.

    Attributes:
        name: File name.
        caption: Defect, score, threshold, and the task it was routed to, if wrong.
        pictures: Data URIs of the `image`, the `heatmap` and, if known, the `mask`.
    """

    name: str
    caption: str
    pictures: dict[str, str]


@dataclass
class GalleryPage:
    """The examples of one product, on one colour scale.

    Attributes:
        product: Name of the product.
        low: Score at the dark end of the scale.
        high: Score at its bright end.
        groups: Examples by the title of their group, which includes its size.
    """

    product: str
    low: float
    high: float
    groups: dict[str, list[Example]]


@dataclass
class SuspectImage:
    """A good image with one of the highest scores of its kind.

    Attributes:
        kind: Whether it is for calibration or for training.
        looks_defective: Whether its score is far above the others.
        path: Its file.
        name: Its name in the calibration.
        product: The product that it shows.
        score: Its score.
        limits: The limits of the product.
        patch_scores: Patch scores (h, w); None if they are not known.
        variant: How the image was changed before it was scored; None for unchanged.
    """

    kind: ImageKind
    looks_defective: bool
    path: str
    name: str
    product: str
    score: float
    limits: Limits
    patch_scores: torch.Tensor | None
    variant: str | None = None


def suspect_examples(suspects: Sequence[SuspectImage]) -> dict[str, dict[str, list[Example]]]:
    """Examples of good images with the highest scores, by product and by title of their group."""
    by_product: dict[str, dict[str, list[Example]]] = {}
    for suspect in suspects:
        try:
            picture = apply_variant(shrink(read_rgb(Path(suspect.path)), SIDE), suspect.variant)
        except DataError:
            continue  # removed or damaged since it was scored
        limits = suspect.limits
        caption = score_caption(suspect.score, limits.score)
        caption += f", scored as {suspect.variant}" if suspect.variant else ""
        if suspect.patch_scores is None:
            pictures = {"image": jpeg_uri(picture)}
            caption += "; only the report of the fit has its heatmap"
        else:
            scale = colour_ends(limits.median_patch_score, limits.pixel)
            pictures = with_heat(picture, suspect.patch_scores, *scale)
        example = Example(suspect.name, caption, pictures)
        found = "look defective" if suspect.looks_defective else "none of these stands out"
        title = f"{suspect.kind} images, highest scores: {found}"
        by_product.setdefault(suspect.product, {}).setdefault(title, []).append(example)
    return by_product


def score_caption(score: float, threshold: float | None) -> str:
    """A score and its threshold, with enough digits to tell them apart.

    Example:
        >>> score_caption(2.94, 2.9), score_caption(2.90001, 2.9), score_caption(2.9, None)
        ('score 2.94 (threshold 2.9)', 'score 2.90001 (threshold 2.9)', 'score 2.9')
    """
    if threshold is None:
        return f"score {score:.4g}"
    texts = ((f"{score:.{digits}g}", f"{threshold:.{digits}g}") for digits in range(4, 18))
    shown, limit = next(((one, two) for one, two in texts if one != two), (f"{score:.4g}",) * 2)
    return f"score {shown} (threshold {limit})"


def with_heat(
    picture: Image.Image, patch_scores: torch.Tensor, low: float, high: float
) -> dict[str, str]:
    """Data URIs of a picture, and of the picture with the map of its patch scores (h, w)."""
    heat = heat_overlay(picture, map_on(picture, patch_scores), low, high)
    return {"image": jpeg_uri(picture), "heatmap": jpeg_uri(heat)}


def select(rows: Sequence[dict[str, Any]], indices: Sequence[int]) -> dict[str, list[int]]:
    """Select a product's images to show: by their labels, or by their scores without labels.

    Returns:
        Indices of the images by the title of their group; an empty group has none.

    Example:
        >>> labels = ("normal", "anomalous", "normal")
        >>> rows = [{"gt_label": 1, "label": label, "score": 1.0} for label in labels]
        >>> list(select(rows, range(3)))[1]
        'missed, labelled normal: 2 of 3 defective images'
    """
    ordered = sorted(indices, key=lambda i: rows[i]["score"])
    good = [i for i in ordered if not rows[i]["gt_label"]]
    defective = [i for i in ordered if rows[i]["gt_label"]]
    if all(rows[i]["label"] is None for i in ordered):
        return {
            "defective, highest scores": defective[::-1][:EXAMPLES],
            "defective, lowest scores": defective[:EXAMPLES],
            "good, highest scores": good[::-1][:EXAMPLES],
        }
    groups = (
        ("found, labelled anomalous", ANOMALOUS, defective[::-1], "defective "),
        ("missed, labelled normal", NORMAL, defective, "defective "),
        ("false alarms, labelled anomalous", ANOMALOUS, good[::-1], "good "),
        ("labelled unknown product", UNKNOWN, ordered[::-1], ""),
    )
    chosen = {}
    for title, label, images, kind in groups:
        labelled = [i for i in images if rows[i]["label"] == label]
        title = f"{title}: {len(labelled) or 'none'} of {len(images)} {kind}images"
        chosen[title] = labelled[:EXAMPLES]
    return chosen


def build_gallery(scores: TaskScores, names: Sequence[str]) -> list[GalleryPage]:
    """Build the page of each product of a task.

    Args:
        scores: The task's scores.
        names: Names of all tasks.
    """
    gallery = []
    for product in dict.fromkeys(row["product"] for row in scores.rows):
        indices = [i for i, row in enumerate(scores.rows) if row["product"] == product]
        low, high = _scale(scores, indices)
        groups = {}
        for title, selected in select(scores.rows, indices).items():
            examples = [_example(scores, i, names, low, high) for i in selected]
            present = [example for example in examples if example is not None]
            if present or not selected:
                groups[title] = present
        gallery.append(GalleryPage(product, low, high, groups))
    return gallery


def _scale(scores: TaskScores, indices: Sequence[int]) -> tuple[float, float]:
    """The colour scale of a product, from the median of good images to clear defects."""
    patches = [scores.patch_scores(i) for i in indices]
    levels = [(scored.median(), scored.max()) for scored in patches]
    good = [i for i, image in enumerate(indices) if not scores.rows[image]["gt_label"]]
    low = torch.stack([levels[i][0] for i in good or range(len(levels))]).median().item()
    return low, torch.stack([top for _, top in levels]).quantile(TOP_QUANTILE).item()


def _example(
    scores: TaskScores, image: int, names: Sequence[str], low: float, high: float
) -> Example | None:
    row = scores.rows[image]
    try:
        picture = shrink(read_rgb(Path(row["path"])), SIDE)
    except DataError:
        return None  # removed or damaged since it was scored
    pictures = with_heat(picture, scores.patch_scores(image), low, high)
    if scores.has_mask(image):
        pictures["mask"] = jpeg_uri(mask_picture(scores.mask(image), picture.size))
    routed = row["routed_task"]
    misrouted = "" if routed == scores.task else f", routed to {names[routed]}"
    caption = f"{row['defect']}, {score_caption(row['score'], row['threshold'])}{misrouted}"
    return Example(Path(row["path"]).name, caption, pictures)
