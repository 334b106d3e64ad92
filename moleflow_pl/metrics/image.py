"""Image metrics of raw scores: AUROC, average precision, best F1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Row = Sequence[float | None]


def roc(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """False- and true-positive rates of raw scores, by descending threshold.

    torchmetrics' AUROC and AP apply a sigmoid to scores outside [0, 1], which makes large scores
    equal; its curves can leave that out.
    """
    from torchmetrics.classification import BinaryROC  # slow to import

    curve = BinaryROC(normalization=None, validate_args=False)
    false_positive, true_positive, _ = curve(scores, labels)
    return false_positive.double(), true_positive.double()


def precision_recall(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and their thresholds, ascending, of raw scores as in `roc`."""
    from torchmetrics.classification import BinaryPrecisionRecallCurve  # slow to import

    curve = BinaryPrecisionRecallCurve(normalization=None, validate_args=False)
    precision, recall, thresholds = curve(scores, labels)
    # if all scores are equal, the single threshold comes without a dimension
    return precision.double(), recall.double(), torch.atleast_1d(thresholds)


def auroc(scores: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of raw scores; ties count half.

    The share of pairs of an anomalous and a normal image in which the anomalous one scores higher
    (the Mann-Whitney statistic).

    Args:
        scores: (N,), unbounded; higher is more anomalous.
        labels: (N,); 1 for anomalous, 0 for normal.

    Returns:
        A number in [0, 1], or None if a class is missing.

    Example:
        >>> auroc(torch.tensor([120.0, 121.0, 119.0, 140.0]), torch.tensor([0, 1, 0, 1]))
        1.0
    """
    if not both_classes(labels):
        return None
    from scipy.stats import mannwhitneyu  # quicker to import than torchmetrics

    anomalous, normal = (scores[labels == label].double().cpu().numpy() for label in (1, 0))
    pairs = mannwhitneyu(anomalous, normal, method="asymptotic").statistic
    return float(pairs) / (len(anomalous) * len(normal))


def average_precision(scores: Tensor, labels: Tensor) -> float | None:
    """Precision of raw scores, summed over steps of recall; None if a class is missing.

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
    """Largest F1 over all thresholds, and the lowest score that counts as anomalous there.

    The labels of the same images choose the threshold, so this is an upper bound and not a
    threshold to use. None if a class is missing.

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
    """Whether there are normal and anomalous labels.

    Example:
        >>> both_classes(torch.tensor([0, 0]))
        False
    """
    return bool((labels == 0).any() and (labels == 1).any())


def mean_of(values: Row) -> float | None:
    """Mean of the values that are not None; None if there are none.

    Example:
        >>> mean_of([0.5, None, 1.0])
        0.75
    """
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
