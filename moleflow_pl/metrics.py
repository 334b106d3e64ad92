"""Numbers of merit on raw scores, and what a task matrix says of learning and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics.classification import BinaryROC

Row = Sequence[float | None]

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS


def auroc(scores: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of raw scores, ties counted half.

    torchmetrics' own AUROC passes scores beyond [0, 1] through a sigmoid, which makes ties of
    negative log-likelihoods; its ROC curve can be told not to.

    Args:
        scores: Any shape; higher is more anomalous, no range.
        labels: Same shape; 1 for anomalous, 0 for normal.

    Returns:
        A number in [0, 1], or None where one of the two classes is missing.

    Example:
        >>> auroc(torch.tensor([120.0, 121.0, 119.0, 140.0]), torch.tensor([0, 1, 0, 1]))
        1.0
    """
    scores, labels = scores.flatten(), labels.flatten().to(torch.long)
    if labels.min() == labels.max():
        return None
    false_positive, true_positive, _ = BinaryROC(normalization=None, validate_args=False)(
        scores, labels
    )
    return torch.trapezoid(true_positive.double(), false_positive.double()).item()


# the other metrics of `METRICS` are reported as null until they are written
COMPUTED: dict[str, Callable[[Tensor, Tensor], float | None]] = {
    "image_auroc": auroc,
    "pixel_auroc": auroc,
}


def mean_of(values: Row) -> float | None:
    """Mean of what is there; None of nothing.

    Example:
        >>> mean_of([0.5, None, 1.0])
        0.75
    """
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def average(matrix: Sequence[Row]) -> float | None:
    """Mean over tasks after the last one, matrix[T-1]."""
    return mean_of(matrix[-1])


def forgetting(matrix: Sequence[Row]) -> float | None:
    """How far each earlier task has fallen from its best, on average.

    Mean over j < T-1 of max over i < T-1 of M[i][j], minus M[T-1][j].

    References: Chaudhry et al. 2018, arXiv:1801.10112, section 3.

    Example:
        >>> round(forgetting([[0.9, None], [0.8, 0.7]]), 6)
        0.1
    """
    *earlier, last = matrix
    falls: list[float | None] = []
    for task in range(len(matrix) - 1):
        before = [value for row in earlier if (value := row[task]) is not None]
        now = last[task]
        falls.append(max(before) - now if before and now is not None else None)
    return mean_of(falls)


def backward_transfer(matrix: Sequence[Row]) -> float | None:
    """What learning later tasks did to each earlier one, on average.

    Mean over j < T-1 of M[T-1][j] - M[j][j].

    References: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, eq. 3.

    Example:
        >>> round(backward_transfer([[0.9, None], [0.95, 0.7]]), 6)
        0.05
    """
    changes: list[float | None] = []
    for task in range(len(matrix) - 1):
        now, then = matrix[-1][task], matrix[task][task]
        changes.append(None if now is None or then is None else now - then)
    return mean_of(changes)
