"""Pixel metrics in bounded memory: three histograms over bins of score.

The test images of a product at 1024 x 1024 have 10^8 pixels, too many to sort. Instead, maps are
computed one by one, and each pixel is counted in the bin of its score. The bin edges are the scores
of a sample of the pixels, so that no bin holds many, and the error of binning is bounded
(`PixelHistogram.error_bounds`). If the sample covers all pixels, each score has its own bin and the
metrics are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from scipy.integrate import trapezoid
from torch import Tensor

SAMPLE = 2**16  # edges sampled from all pixels, and as many from the defective ones
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
FPR_LIMIT = 0.3

Maps = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def bin_edges(pixels: Maps, counts: tuple[int, int]) -> Tensor:
    """Distinct scores of an evenly spread sample of all pixels and of the defective ones.

    Args:
        pixels: Yields maps (H, W) and masks (H, W), bool; called once.
        counts: Number of pixels, and of defective pixels.

    Shape: (bins,), ascending.
    """
    strides = [max(-(-count // SAMPLE), 1) for count in counts]
    offsets = [0, 0]
    samples = []
    for scores, mask in pixels():
        for i, group in enumerate((scores.flatten(), scores[mask])):
            # a copy: a view would keep the whole map in memory
            samples.append(group[offsets[i] :: strides[i]].clone())
            # continue with the same stride in the next map
            offsets[i] = (offsets[i] - len(group)) % strides[i]
    return torch.cat(samples).unique()


@dataclass
class PixelHistogram:
    """Counts of normal and defective pixels, and the overlap with defect regions, by score.

    Args:
        edges: Ascending scores; bin k holds the scores in [edges[k], edges[k+1]), and an extra
            first bin those below edges[0].
        every_defect: Whether each defective pixel's score is an edge. Recall then steps only at
            edges, and the average precision is exact.
    """

    edges: Tensor
    every_defect: bool = False
    regions: int = 0
    normal: np.ndarray = field(init=False)
    defective: np.ndarray = field(init=False)
    overlap: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        bins = len(self.edges) + 1
        self.normal, self.defective, self.overlap = (np.zeros(bins) for _ in range(3))

    def update(self, scores: Tensor, mask: Tensor) -> None:
        """Add one map (H, W) and its mask (H, W), bool."""
        bins = torch.bucketize(scores, self.edges, right=True)
        width = len(self.normal)
        self.normal += torch.bincount(bins[~mask], minlength=width).numpy()
        if not mask.any():
            return
        self.defective += torch.bincount(bins[mask], minlength=width).numpy()
        labels, regions = ndimage.label(mask.numpy(), EIGHT_NEIGHBOURS)
        # each region has weight 1, however many pixels it has
        region_of_pixel = torch.from_numpy(labels)[mask]
        weights = (1 / region_of_pixel.bincount().clamp_min(1).double())[region_of_pixel]
        self.overlap += torch.bincount(bins[mask], weights, minlength=width).numpy()
        self.regions += regions

    @property
    def both_classes(self) -> bool:
        """Whether there are normal and defective pixels."""
        return bool(self.normal.sum() and self.defective.sum())

    def auroc(self) -> float | None:
        """Area under the ROC curve; None if a class is missing."""
        if not self.both_classes:
            return None
        return float(trapezoid(share_above(self.defective), share_above(self.normal)))

    def average_precision(self) -> float | None:
        """Precision summed over steps of recall; None if a class is missing."""
        if not self.both_classes:
            return None
        true, false = self.defective[::-1].cumsum(), self.normal[::-1].cumsum()
        precision = true / np.maximum(true + false, 1)
        return float((precision * self.defective[::-1]).sum() / self.defective.sum())

    def aupro(self, limit: float = FPR_LIMIT) -> float | None:
        """Area under the per-region overlap up to a false-positive rate, divided by that rate.

        Regions are 8-connected sets of defective pixels. None if a class is missing.

        References: Bergmann et al. 2021, doi:10.1007/s11263-020-01400-4, section 5.
        """
        if not self.both_classes:
            return None
        fpr = share_above(self.normal)
        pro = np.concatenate(([0.0], self.overlap[::-1].cumsum() / self.regions))
        # the first point beyond the limit; the curve is linear up to it
        beyond = int(np.searchsorted(fpr, limit, side="right"))
        fpr_cut, pro_cut = fpr[:beyond], pro[:beyond]
        if beyond < len(fpr):
            fraction = (limit - fpr[beyond - 1]) / (fpr[beyond] - fpr[beyond - 1])
            at_limit = pro[beyond - 1] + fraction * (pro[beyond] - pro[beyond - 1])
            fpr_cut, pro_cut = np.append(fpr_cut, limit), np.append(pro_cut, at_limit)
        return float(trapezoid(pro_cut, fpr_cut) / limit)

    def error_bounds(self, limit: float = FPR_LIMIT) -> dict[str, float]:
        """Largest possible difference of each metric from that of the unbinned scores."""
        good, bad = self.normal[::-1], self.defective[::-1]
        true, false = bad.cumsum() - bad, good.cumsum() - good
        best = (true + bad) / np.maximum(true + false + bad, 1)
        worst = np.where(bad > 0, (true + 1) / (true + false + good + 1), best)
        total = max(good.sum() * bad.sum(), 1)
        # a bin with a single distinct score has no error, but cannot be recognised here
        steps = 0.0 if self.every_defect else (bad * (best - worst)).sum()
        return {
            "auroc": float((good * bad).sum() / 2 / total),
            "average_precision": float(steps / max(bad.sum(), 1)),
            "aupro": self._overlap_bound(limit),
        }

    def _overlap_bound(self, limit: float) -> float:
        # within a bin the curve may rise in any way, so the area is off by at most half its box
        boxes = (self.normal * self.overlap).sum() / 2
        return float(boxes / max(self.normal.sum() * self.regions, 1) / limit)


def share_above(counts: np.ndarray) -> np.ndarray:
    """Share of all counts at or above each threshold, from 0 to 1 as the threshold falls."""
    return np.concatenate(([0.0], counts[::-1].cumsum() / counts.sum()))
