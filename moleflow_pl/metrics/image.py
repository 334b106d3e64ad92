"""Numbers of merit on raw scores, and what a task matrix says of learning and forgetting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.classification import BinaryPrecisionRecallCurve, BinaryROC

Row = Sequence[float | None]


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
