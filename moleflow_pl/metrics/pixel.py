"""Pixel metrics in bounded memory: three histograms over ordered bins of score.

A full test class at 1024 x 1024 has 10^8 pixels, too many to sort beside a model. Maps come and go
one by one instead; each pixel leaves a count in the bin of its score. The bins' edges are scores of
a sample of the pixels, so that no bin holds many, and what the bins may cost is bounded
(`PixelHistogram.error_bounds`). With no more pixels than the sample, each score has its own bin and
the metrics are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from scipy.integrate import trapezoid
from torch import Tensor

SAMPLE = 2**16  # edges taken from all pixels, and as many from the defective ones
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
FPR_LIMIT = 0.3

Maps = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def bin_edges(pixels: Maps, counts: tuple[int, int]) -> Tensor:
    """Distinct scores of an evenly spread sample of all pixels and of the defective ones.

    Args:
        pixels: Gives maps (H, W) and masks (H, W), bool, one after another; called once here.
        counts: How many pixels there are, and how many defective ones.

    Shape: (bins,), ascending.
    """
    strides = [max(-(-count // SAMPLE), 1) for count in counts]
    offsets = [0, 0]
    found = []
    for scores, mask in pixels():
        for i, chosen in enumerate((scores.flatten(), scores[mask])):
            # a copy: a view would keep the whole map
            found.append(chosen[offsets[i] :: strides[i]].clone())
            # go on with the same stride in the next map
            offsets[i] = (offsets[i] - len(chosen)) % strides[i]
    return torch.cat(found).unique()


@dataclass
class PixelHistogram:
    """Counts of normal and defective pixels, and of overlap with regions, by score.

    Args:
        edges: Ascending scores; bin k holds the scores in [edges[k], edges[k+1]), and the one
            before the first edge those below it.
        every_defect: Whether each defective pixel's score is an edge. Recall then steps at edges
            alone, and the average precision is exact.
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
        """Take in one map (H, W) and its mask (H, W), bool."""
        bins = torch.bucketize(scores, self.edges, right=True)
        width = len(self.normal)
        self.normal += torch.bincount(bins[~mask], minlength=width).numpy()
        if not mask.any():
            return
        self.defective += torch.bincount(bins[mask], minlength=width).numpy()
        labels, regions = ndimage.label(mask.numpy(), EIGHT_NEIGHBOURS)
        # each region weighs one, however many pixels it has
        of_pixel = torch.from_numpy(labels)[mask]
        share = (1 / of_pixel.bincount().clamp_min(1).double())[of_pixel]
        self.overlap += torch.bincount(bins[mask], share, minlength=width).numpy()
        self.regions += regions

    @property
    def both_classes(self) -> bool:
        """Whether there are normal and defective pixels."""
        return bool(self.normal.sum() and self.defective.sum())

    def auroc(self) -> float | None:
        """Area under the ROC curve; None where a class is missing."""
        if not self.both_classes:
            return None
        return float(trapezoid(falling_share(self.defective), falling_share(self.normal)))

    def average_precision(self) -> float | None:
        """Precision summed over steps of recall; None where a class is missing."""
        if not self.both_classes:
            return None
        found, wrong = self.defective[::-1].cumsum(), self.normal[::-1].cumsum()
        precision = found / np.maximum(found + wrong, 1)
        return float((precision * self.defective[::-1]).sum() / self.defective.sum())

    def aupro(self, limit: float = FPR_LIMIT) -> float | None:
        """Area under the per-region overlap up to a false-positive rate, divided by that rate.

        Regions are sets of defective pixels that touch, corners included. None where a class is
        missing.

        References: Bergmann et al. 2021, doi:10.1007/s11263-020-01400-4, section 5.
        """
        if not self.both_classes:
            return None
        fpr = falling_share(self.normal)
        pro = np.concatenate(([0.0], self.overlap[::-1].cumsum() / self.regions))
        # the first point beyond the limit; the curve is straight up to it
        beyond = int(np.searchsorted(fpr, limit, side="right"))
        fpr_cut, pro_cut = fpr[:beyond], pro[:beyond]
        if beyond < len(fpr):
            part = (limit - fpr[beyond - 1]) / (fpr[beyond] - fpr[beyond - 1])
            at_limit = pro[beyond - 1] + part * (pro[beyond] - pro[beyond - 1])
            fpr_cut, pro_cut = np.append(fpr_cut, limit), np.append(pro_cut, at_limit)
        return float(trapezoid(pro_cut, fpr_cut) / limit)

    def error_bounds(self, limit: float = FPR_LIMIT) -> dict[str, float]:
        """How far each metric can be from that of the unbinned scores, at the most."""
        good, bad = self.normal[::-1], self.defective[::-1]
        found, wrong = bad.cumsum() - bad, good.cumsum() - good
        best = (found + bad) / np.maximum(found + wrong + bad, 1)
        worst = np.where(bad > 0, (found + 1) / (found + wrong + good + 1), best)
        total = max(good.sum() * bad.sum(), 1)
        # a bin that holds one score alone costs nothing, but is not told apart here
        steps = 0.0 if self.every_defect else (bad * (best - worst)).sum()
        return {
            "auroc": float((good * bad).sum() / 2 / total),
            "average_precision": float(steps / max(bad.sum(), 1)),
            "aupro": self._overlap_bound(limit),
        }

    def _overlap_bound(self, limit: float) -> float:
        # within a bin the curve may take any way up, so the area is off by half the bin's box
        boxes = (self.normal * self.overlap).sum() / 2
        return float(boxes / max(self.normal.sum() * self.regions, 1) / limit)


def falling_share(counts: np.ndarray) -> np.ndarray:
    """Share of all counts at or above each threshold, from none to all."""
    return np.concatenate(([0.0], counts[::-1].cumsum() / counts.sum()))
