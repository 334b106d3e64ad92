"""Numbers of merit on raw scores, and what a task matrix says of learning and forgetting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.classification import BinaryPrecisionRecallCurve, BinaryROC

Row = Sequence[float | None]

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS
CHANCE = 0.5  # AUROC of a guess


def roc(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """False- and true-positive rates of raw scores, by falling threshold.

    torchmetrics' own AUROC and AP pass scores beyond [0, 1] through a sigmoid, which makes ties of
    negative log-likelihoods; its curves can be told not to.
    """
    curve = BinaryROC(normalization=None, validate_args=False)
    false_positive, true_positive, _ = curve(scores, labels)
    return false_positive.double(), true_positive.double()


def precision_recall(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and the score from which on they hold, by ascending score; raw as `roc`."""
    curve = BinaryPrecisionRecallCurve(normalization=None, validate_args=False)
    precision, recall, thresholds = curve(scores, labels)
    # where all scores are one, there is a single threshold, and no dimension
    return precision.double(), recall.double(), torch.atleast_1d(thresholds)


def auroc(scores: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of raw scores, ties counted half.

    Args:
        scores: (N,); higher is more anomalous, no range.
        labels: (N,); 1 for anomalous, 0 for normal.

    Returns:
        A number in [0, 1], or None where one of the two classes is missing.

    Example:
        >>> auroc(torch.tensor([120.0, 121.0, 119.0, 140.0]), torch.tensor([0, 1, 0, 1]))
        1.0
    """
    if not both_classes(labels):
        return None
    false_positive, true_positive = roc(scores, labels)
    return torch.trapezoid(true_positive, false_positive).item()


def average_precision(scores: Tensor, labels: Tensor) -> float | None:
    """Precision of raw scores, summed over steps of recall; None where a class is missing.

    Shape: scores and labels (N,), as in `auroc`.

    Example:
        >>> average_precision(torch.tensor([120.0, 121.0, 119.0]), torch.tensor([1, 0, 0]))
        0.5
    """
    if not both_classes(labels):
        return None
    precision, recall, _ = precision_recall(scores, labels)
    return -(recall.diff() * precision[:-1]).sum().item()


def f1_max(scores: Tensor, labels: Tensor) -> tuple[float, float] | None:
    """Largest F1 over all thresholds, and the score from which on it calls an image anomalous.

    The threshold is chosen by the labels it is judged by: a bound on what a threshold can reach,
    none to work with. None where a class is missing.

    Shape: scores and labels (N,), as in `auroc`.

    Example:
        >>> f1_max(torch.tensor([120.0, 121.0, 119.0]), torch.tensor([1, 1, 0]))
        (1.0, 120.0)
    """
    if not both_classes(labels):
        return None
    precision, recall, thresholds = precision_recall(scores, labels)
    f1 = (2 * precision * recall / (precision + recall))[:-1].nan_to_num(0.0)
    best = int(f1.argmax())
    return f1[best].item(), thresholds[best].item()


def both_classes(labels: Tensor) -> bool:
    """Whether there are normal and anomalous ones.

    Example:
        >>> both_classes(torch.tensor([0, 0]))
        False
    """
    return bool((labels == 0).any() and (labels == 1).any())


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


def forward_transfer(before: Row) -> float | None:
    """What earlier tasks are worth to one that is not learned yet, on average, above chance.

    Mean of the AUROC of each later task just before it is learned, by the experts there are, minus
    one half. It has a meaning for an AUROC alone, whose chance is the same for all data.

    Args:
        before: AUROC of task j before it was learned; None where it was not measured.

    References: Lopez-Paz & Ranzato 2017, arXiv:1706.08840, eq. 4.

    Example:
        >>> forward_transfer([None, 0.75])
        0.25
    """
    reached = mean_of(before)
    return None if reached is None else reached - CHANCE


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
