"""Thresholds judged by test images: false alarms against chance, and defective images found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import betabinom

from benchmarks.harness.report import Row
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.tasks.own_scores import OwnScores
from moleflow_pl.tasks.schedule import TaskSchedule
from moleflow_pl.tasks.thresholds import FALSE_ALARM_RATE, limit, limit_by_all, threshold

TAIL = 0.005  # probability on each side of an interval
# every image taken for good, as before; and without the highest, where they lie too far out
FORMULAS: Mapping[str, Callable[[Sequence[float], float], float]] = {
    "every calibration image counts": limit_by_all,
    "robust": limit,
}


def alarms_by_chance(good: int, images: int, rate: float) -> tuple[float, float]:
    """The 99 % prediction interval of the false alarms if the rate asked for is the true one.

    Args:
        good: Number of good test images.
        images: Number of calibration images.
        rate: The rate.

    Example:
        >>> alarms_by_chance(294, 29, 0.01)
        (0.0, 32.0)
    """
    expected = (images + 1) * rate
    count = betabinom(good, expected, images + 1 - expected)
    return float(count.ppf(TAIL)), float(count.ppf(1 - TAIL))


def judged(
    what: str,
    value: float,
    calibration: Sequence[float],
    tested: OwnScores,
    rate: float = FALSE_ALARM_RATE,
) -> Row:
    """A threshold's false alarms and the defective images that it finds.

    Args:
        what: The product and the threshold, in words.
        value: The threshold.
        calibration: Scores of the calibration images.
        tested: Scores of the test images.
        rate: The rate that the threshold is for.
    """
    good, defective = np.array(tested.good), np.array(tested.defective)
    least, most = alarms_by_chance(len(good), len(calibration), rate)
    return Row(
        f"{what}, {rate:.1%} asked: false alarms",
        float((good > value).sum()),
        f"of {len(good)}",
        least=least,
        most=most,
        note=f"{len(calibration)} calibration images; {(defective > value).mean():.1%} of the "
        f"defective ones found, {(defective > np.quantile(good, 1 - rate)).mean():.1%} where "
        f"exactly {rate:.1%} of these good images are false alarms",
    )


def side_by_side(run: Path) -> Iterator[Row]:
    """The thresholds of a finished run, by each formula.

    Raises:
        SystemExit: a product of it has no calibration, or no test images.
    """
    state = read_checkpoint(run / "last.ckpt")[STATE_KEY]
    for task in TaskSchedule.from_state(state["tasks"]).tasks:
        if task.calibration is None or task.tested is None:
            raise SystemExit(f"{task.name} of {run} has no calibration images or no test images")
        scores = task.calibration.scores
        suspects = threshold(scores, FALSE_ALARM_RATE).suspects
        for name, formula in FORMULAS.items():
            value = formula(scores, FALSE_ALARM_RATE)
            row = judged(f"{task.name}, {name}", value, scores, task.tested)
            row.note += f"; {suspects} suspects" if suspects and formula is limit else ""
            yield row
