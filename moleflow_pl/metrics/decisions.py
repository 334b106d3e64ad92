"""Counts of decisions about a product's test images, and shares with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.thresholds import RATES

CONFIDENCE = 0.95  # level of the confidence interval of a share
TARGET_RECALL = 0.95
NORMAL, ANOMALOUS, UNKNOWN = "normal", "anomalous", "unknown_product"
# what a decision adds to a row of scores; None if the product has no calibration
DECISION_COLUMNS = ("threshold", "label", "normalised_score", "novelty_ratio", "alarm_rate")


class Share(TypedDict):
    """A count out of a number of images, with the 95 % Wilson interval of the share.

    Share and interval are None for a share of no images.
    """

    count: int
    of: int
    share: float | None
    low: float | None
    high: float | None


class ProductDecisions(TypedDict):
    """Number of a product's test images with each label; images without a label are left out.

    A defective image labelled `unknown_product` counts as neither found nor missed.

    Attributes:
        threshold: The product's threshold; None without a calibration.
        false_alarm_rate: The target false-alarm rate; None without a calibration.
        calibration_images: Number of calibration images; None without a calibration.
        good: Good images.
        defective: Defective images.
        false_alarms: Good images labelled `anomalous`.
        found: Defective images labelled `anomalous`.
        missed: Defective images labelled `normal`.
        unknown_good: Good images labelled `unknown_product`.
        unknown_defective: Defective images labelled `unknown_product`.
        target_recall: The recall that `target_rate` reaches.
        target_rate: The lowest target false-alarm rate that reaches this recall on these images;
            None if no rate does.
        target_false_alarms: Good images labelled `anomalous` at that rate.
    """

    threshold: float | None
    false_alarm_rate: float | None
    calibration_images: int | None
    good: int
    defective: int
    false_alarms: int
    found: int
    missed: int
    unknown_good: int
    unknown_defective: int
    target_recall: float
    target_rate: float | None
    target_false_alarms: int | None


class Shares(TypedDict):
    """Shares of a product's images, or of all; `unknown` counts good and defective images."""

    false_alarms: Share
    missed: Share
    recall: Share
    precision: Share
    unknown: Share


def share(count: int, of: int) -> Share:
    """A share with its interval.

    References: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    Example:
        >>> false_alarms = share(1, 294)
        >>> [round(false_alarms[key], 4) for key in ("share", "low", "high")]
        [0.0034, 0.0006, 0.019]
    """
    from scipy.stats import binomtest  # a slow import that inspection does not need

    if not of:
        return Share(count=count, of=of, share=None, low=None, high=None)
    interval = binomtest(count, of).proportion_ci(CONFIDENCE, method="wilson")
    return Share(
        count=count, of=of, share=count / of, low=float(interval.low), high=float(interval.high)
    )


def count_decisions(
    rows: Sequence[Mapping[str, Any]],
    calibration: Calibration | None,
    target_recall: float = TARGET_RECALL,
) -> ProductDecisions:
    """Count the labels of a product's test images.

    Args:
        rows: Its images, see `TaskScores.rows`.
        calibration: The calibration of its own task; None if it has none.
        target_recall: Share of the defective images to find.
    """
    good, defective = ([r for r in rows if r["gt_label"] == label] for label in (0, 1))

    def count(images: Sequence[Mapping[str, Any]], label: str) -> int:
        return sum(row["label"] == label for row in images)

    decided = [sum(row["label"] is not None for row in images) for images in (good, defective)]
    target = rate_of_recall(defective, target_recall)
    return ProductDecisions(
        threshold=None if calibration is None else calibration.limits().score,
        false_alarm_rate=None if calibration is None else calibration.false_alarm_rate,
        calibration_images=None if calibration is None else len(calibration.scores),
        good=decided[0],
        defective=decided[1],
        false_alarms=count(good, ANOMALOUS),
        found=count(defective, ANOMALOUS),
        missed=count(defective, NORMAL),
        unknown_good=count(good, UNKNOWN),
        unknown_defective=count(defective, UNKNOWN),
        target_recall=target_recall,
        target_rate=target,
        target_false_alarms=None if target is None else alarms_at(good, target),
    )


def alarms_at(rows: Sequence[Mapping[str, Any]], rate: float) -> int:
    """Number of images that would be labelled `anomalous` at a false-alarm rate."""
    return sum(row["alarm_rate"] <= rate for row in known(rows))


def shares_by_rate(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Shares of missed defects and of false alarms at each of `RATES`, by name.

    A share without labelled images of its kind is left out.
    """
    good, defective = (
        [r for r in rows if r["gt_label"] == label and r["label"] is not None] for label in (0, 1)
    )
    shares = {}
    if defective:
        total = len(known(defective))
        missed = [total - alarms_at(defective, rate) for rate in RATES]
        shares["missed defects"] = [count / len(defective) for count in missed]
    if good:
        shares["false alarms"] = [alarms_at(good, rate) / len(good) for rate in RATES]
    return shares


def known(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The images whose label depends on the rate: those not labelled unknown."""
    return [row for row in rows if row["label"] in (NORMAL, ANOMALOUS)]


def rate_of_recall(defective: Sequence[Mapping[str, Any]], recall: float) -> float | None:
    """The lowest false-alarm rate at which a share `recall` of defective images is found.

    Example:
        >>> rows = [{"label": "normal", "alarm_rate": rate} for rate in (0.3, 0.001, 0.02)]
        >>> rate_of_recall(rows, 0.6)
        0.02
    """
    rates = sorted(row["alarm_rate"] for row in known(defective))
    labelled = sum(row["label"] is not None for row in defective)
    # rounded first: in floating point 0.95 x 100 is a little less than 95
    needed = max(math.ceil(round(recall * labelled, 9)), 1)
    if needed > len(rates) or rates[needed - 1] >= 1:
        return None
    return rates[needed - 1]


def shares_of(counts: Mapping[str, Any]) -> Shares:
    """The shares of `ProductDecisions`, or of their sums."""
    alarms, hits = counts["false_alarms"], counts["found"]
    unknown = counts["unknown_good"] + counts["unknown_defective"]
    return Shares(
        false_alarms=share(alarms, counts["good"]),
        missed=share(counts["missed"], counts["defective"]),
        recall=share(hits, counts["defective"]),
        precision=share(hits, hits + alarms),
        unknown=share(unknown, counts["good"] + counts["defective"]),
    )
