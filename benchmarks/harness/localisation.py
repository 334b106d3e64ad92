"""Where defects are: masks and boxes of a finished run, against the masks of its test images.

For `localisation` of `benchmarks.decisions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from benchmarks.harness.fits import load_run
from benchmarks.harness.products import BATCH, evenly
from benchmarks.harness.report import Report, Row
from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.data.integrity import ImageCheck
from moleflow_pl.data.masks import read_mask
from moleflow_pl.data.splits import ProductSplits
from moleflow_pl.inference.localisation import CONNECTED, defect_mask
from moleflow_pl.scoring.functional import anomaly_map
from moleflow_pl.scoring.guided_map import GuidedFilter, guides_of, pixel_map
from moleflow_pl.tasks.thresholds import limit_by_all

FIRST, PLAIN, USED = "blurred, highest pixel", "bilinear", "in use"
GUIDED = [(window, epsilon) for window in (9, 17, 33) for epsilon in (1e-4, 1e-3, 1e-2)]
BILATERAL = [(space, colour) for space in (4.0, 8.0) for colour in (0.05, 0.1, 0.2)]
BILATERAL_WINDOW = 17
MOST_IMAGES = 120  # of a product, evenly spread
DRAWS = 1000  # of a bootstrap
AIM = 2.0  # times the former IoU


@dataclass
class Defect:
    """A defective image, and what the model says of it.

    Attributes:
        patch_scores: (h, w).
        image: The image as the model takes it (1, 3, *), uint8.
        truth: Pixels of its defects (H, W), bool.
    """

    patch_scores: Tensor
    image: Tensor
    truth: np.ndarray

    @cached_property
    def guide(self) -> Tensor:
        """What the map follows (3, *), uint8."""
        return guides_of(self.image, self.patch_scores.shape)[0]  # type: ignore[arg-type]

    def upsampled(self, mode: str = "bilinear") -> Tensor:
        """The map at the size of the image (H, W)."""
        return resized(self.patch_scores[None, None], self.truth.shape, mode)

    def followed(self) -> Tensor:
        """The map that is in use (H, W)."""
        return pixel_map(self.patch_scores, self.truth.shape, self.guide)

    def filtered(self) -> Tensor:
        """The map of the guided filter alone, without back-projection (H, W)."""
        each = self.guide.shape[1] // len(self.patch_scores)
        scores = GuidedFilter(self.guide, each)(self.patch_scores.double().numpy())
        return resized(torch.from_numpy(scores)[None, None].float(), self.truth.shape)

    def small(self) -> tuple[Tensor, Tensor]:
        """The map (1, 1, *) and the image (1, 3, *) in 0..1, both at the size of a guide."""
        image = self.guide[None] / 255
        return resized(self.patch_scores[None, None], image.shape[2:])[None, None], image


Way = Callable[[Defect], Tensor]  # from an image to its map (H, W)


def resized(scores: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Scores (1, 1, h, w) at another size, as (H, W)."""
    return F.interpolate(scores, size=tuple(size), mode=mode, align_corners=False)[0, 0]


def guided(defect: Defect, window: int, epsilon: float) -> Tensor:
    """The map by a guided filter: in each window a linear function of the image.

    References: He, Sun & Tang 2013, doi:10.1109/TPAMI.2012.213.
    """
    from kornia.filters import guided_blur

    scores, image = defect.small()
    scores = guided_blur(image, scores, window, epsilon)
    return resized(scores, defect.truth.shape)


def bilateral(defect: Defect, space: float, colour: float) -> Tensor:
    """The map by a joint bilateral filter: a mean over near pixels of like colour.

    References: Kopf et al. 2007, doi:10.1145/1276377.1276497.
    """
    from kornia.filters import joint_bilateral_blur

    scores, image = defect.small()
    scores = joint_bilateral_blur(scores, image, BILATERAL_WINDOW, colour, (space, space))
    return resized(scores, defect.truth.shape)


def ways() -> Mapping[str, Way]:
    """From patch scores to maps; those of kornia where it is installed."""
    found: dict[str, Way] = {
        USED: Defect.followed,
        PLAIN: Defect.upsampled,
        "guided filter alone": Defect.filtered,
        "bicubic": lambda defect: defect.upsampled("bicubic"),
    }
    if find_spec("kornia") is None:
        return found
    for window, epsilon in GUIDED:
        found[f"guided, window {window}, epsilon {epsilon:g}"] = partial(
            guided, window=window, epsilon=epsilon
        )
    for space, colour in BILATERAL:
        found[f"bilateral, {space:g} px, colour {colour:g}"] = partial(
            bilateral, space=space, colour=colour
        )
    return found


def pixel_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks; 0 where both are empty.

    Example:
        >>> pixel_iou(np.array([True, True]), np.array([True, False]))
        0.5
    """
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 0.0


def box_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the true defects' boxes of the highest IoU with a box of the mask.

    Example:
        >>> truth = np.zeros((8, 8), dtype=bool)
        >>> truth[:2, :2] = truth[6:, 6:] = True
        >>> box_iou(truth, truth), box_iou(np.ones((8, 8), dtype=bool), truth)
        (1.0, 0.0625)
    """
    boxes = box_corners(mask)
    return float(
        np.mean([max((overlap(a, b) for a in boxes), default=0.0) for b in box_corners(truth)])
    )


def box_corners(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Top, left, bottom and right of each connected region."""
    labels, _ = ndimage.label(mask, structure=CONNECTED)
    return [(r.start, c.start, r.stop, c.stop) for r, c in ndimage.find_objects(labels)]


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """IoU of two boxes."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0) * max(width, 0)
    areas = [(bottom - top) * (right - left) for top, left, bottom, right in (a, b)]
    return common / (sum(areas) - common)


def patch_scores_of(predictor: Predictor, paths: Sequence[Path]) -> list[Tensor]:
    """Patch scores (h, w) of each image."""
    return [one.patch_scores for one in predictor.stream(paths, BATCH)]


def defects_of(predictor: Predictor, splits: ProductSplits, product: str) -> Iterator[Defect]:
    """The defective test images of a product that have masks."""
    records = [r for r in splits.records(product, "test") if r.gt_label and r.mask is not None]
    records = evenly(records, MOST_IMAGES)
    scores = patch_scores_of(predictor, [record.path for record in records])
    for record, found in zip(records, scores, strict=True):
        assert record.mask is not None
        image = predictor.prepare(record.path).tensor[None]
        truth = read_mask(record.mask).pixels.numpy() > 0
        if truth.any():
            yield Defect(found, image, truth)


def measured(
    model: MoLEFlow, data: Mapping[str, Any], product: str, chosen: Mapping[str, Way]
) -> dict[str, np.ndarray]:
    """Pixel IoU and box IoU of each image (N, 2), by the way to its mask."""
    predictor = Predictor(model, product=product)
    layout, root = data["layout"], data.get("root")
    splits = ProductSplits(layout, root, data["val_fraction"], ImageCheck())
    good = [record.path for record in splits.records(product, "val")]
    highest = limit_by_all([one.max().item() for one in patch_scores_of(predictor, good)])
    assert predictor.decisions.task is not None
    pixel = predictor.decisions.limits[predictor.decisions.task].pixel
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (FIRST, *chosen)}
    for defect in defects_of(predictor, splits, product):
        size: Any = defect.truth.shape
        masks = {FIRST: anomaly_map(defect.patch_scores[None], size)[0].numpy() > highest}
        masks |= {name: defect_mask(way(defect), pixel) for name, way in chosen.items()}
        for name, mask in masks.items():
            found[name].append((pixel_iou(mask, defect.truth), box_iou(mask, defect.truth)))
    return {name: np.array(values) for name, values in found.items()}


def gain(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of differences (N,), and its 95 % interval by a bootstrap over images."""
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def add_product(report: Report, product: str, found: Mapping[str, np.ndarray]) -> None:
    """A product's figures: each way beside the bilinear map, and the one in use by the first."""
    for column, kind in enumerate(("pixel IoU", "box IoU")):
        for name, values in found.items():
            mean, low, high = gain(values[:, column] - found[PLAIN][:, column])
            note = f"{mean:+.3f}, {low:+.3f} to {high:+.3f}; {len(values)} images"
            report.add(Row(f"{product}, {name}: {kind}", values[:, column].mean(), "", note=note))
        first = found[FIRST][:, column].mean()
        times = found[USED][:, column].mean() / first if first else None
        report.add(Row(f"{product}: {kind} in use, times the first", times, "", least=AIM))


def best_of(found: Mapping[str, np.ndarray]) -> str:
    """The way with the highest mean of both IoUs, of those that are tried."""
    others = {
        name: values.mean() for name, values in found.items() if name not in (FIRST, PLAIN, USED)
    }
    return max(others, key=lambda name: others[name])


def localise(report: Report, run: Path, choose: Sequence[str], confirm: Sequence[str]) -> None:
    """Choose a way on some products, and try it on the others."""
    model, data = load_run(run / "last.ckpt")
    every = ways()
    results = {product: measured(model, data, product, every) for product in choose}
    for product, found in results.items():
        add_product(report, product, found)
    best = best_of({name: np.concatenate([f[name] for f in results.values()]) for name in every})
    print(f"chosen on {', '.join(choose)}: {best}", flush=True)
    tried = {name: every[name] for name in (USED, PLAIN, best)}
    for product in confirm:
        add_product(report, product, measured(model, data, product, tried))
