"""Thresholds judged by test images: false alarms against chance, and defective images found.

For `run`, `thresholds`, `redrawn` and `folds` of `benchmarks.decisions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import betabinom, genpareto

from benchmarks.harness.report import Row
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.tasks.oracle_scores import OracleScores
from moleflow_pl.tasks.schedule import TaskSchedule
from moleflow_pl.tasks.thresholds import (
    FALSE_ALARM_RATE,
    images_for,
    limit,
    limit_by_all,
    tail_size,
    threshold,
)

TAIL = 0.005  # probability on each side of an interval
DRAWS = 200  # of calibration images
LEAST_GOOD = 100  # good test images of a product whose calibration images are drawn
SHARES = (0.0, 0.01, 0.05)  # of the drawn images that are defective
LEAST_RECALL, MOST_ALARMS = 0.8, 2.0  # of that without defective images, of the rate asked for
Formula = Callable[[Sequence[float], float], float]
# every image taken for good, as before; and without the highest, where they lie too far out
FORMULAS: Mapping[str, Formula] = {
    "every calibration image counts": limit_by_all,
    "robust": limit,
}
POOLED = "tail of the run's other products"


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
    tested: OracleScores,
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


def scores_in(run: Path) -> Iterator[tuple[str, list[float], OracleScores]]:
    """The tasks of a finished run: name, scores of the calibration images, and of the test images.

    Raises:
        SystemExit: a product of it has no calibration, or no test images.
    """
    state = read_checkpoint(run / "last.ckpt")[STATE_KEY]
    for task in TaskSchedule.from_state(state["tasks"]).tasks:
        if task.calibration is None or task.oracle_scores is None:
            raise SystemExit(f"{task.name} of {run} has no calibration images or no test images")
        yield task.name, list(task.calibration.scores), task.oracle_scores


def tail_excesses(scores: Sequence[float]) -> tuple[float, np.ndarray]:
    """The base of the tail of scores, and the excesses of those above it.

    The tail is as large as that of a `threshold`.

    Example:
        >>> tail_excesses([0.0, 3.0, 5.0])
        (0.0, array([3., 5.]))
    """
    ordered = np.sort(scores)
    size = min(tail_size(len(ordered)), len(ordered) - 1)
    return float(ordered[-size - 1]), ordered[-size:] - ordered[-size - 1]


def tail_shape(products: Sequence[Sequence[float]]) -> float:
    """Shape of one generalised Pareto tail of several products, each over its mean excess."""
    excesses = [tail_excesses(scores)[1] for scores in products]
    scaled = [e / e.mean() for e in excesses if e.any()]
    return float(genpareto.fit(np.concatenate(scaled), floc=0)[0])


def limit_by_shape(scores: Sequence[float], rate: float, shape: float) -> float:
    """The limit by a generalised Pareto tail of a known shape, where images are too few for it.

    Its mean is that of k excesses; that it is not exactly known adds 1 / k to the shape, as it does
    to that of an exponential tail.
    """
    count = len(scores)
    if count >= images_for(rate):
        return limit(scores, rate)
    base, excesses = tail_excesses(scores)
    wider = shape + 1 / len(excesses) or np.finfo(float).eps
    odds = rate * (count + 1) / (len(excesses) + 1)
    value = base + excesses.mean() * (1 - shape) * (odds**-wider - 1) / wider
    return max(value, max(scores))  # as without a shape


def formulas_for(task: str, every: Mapping[str, Sequence[float]]) -> dict[str, Formula]:
    """The formulas to compare on a task; one needs the calibration scores of the others."""
    others = [scores for name, scores in every.items() if name != task and len(scores) > 1]
    if not others:
        return dict(FORMULAS)
    return {**FORMULAS, POOLED: partial(limit_by_shape, shape=tail_shape(others))}


def side_by_side(run: Path) -> Iterator[Row]:
    """The thresholds of a finished run, by each formula."""
    tasks = list(scores_in(run))
    every = {task: scores for task, scores, _ in tasks}
    for task, scores, tested in tasks:
        suspects = threshold(scores, FALSE_ALARM_RATE).suspects
        for name, formula in formulas_for(task, every).items():
            value = formula(scores, FALSE_ALARM_RATE)
            row = judged(f"{task}, {name}", value, scores, tested)
            row.note += f"; {suspects} suspects" if suspects and formula is limit else ""
            yield row


def redrawn(run: Path) -> Iterator[Row]:
    """Thresholds by calibration images that are drawn from a run's test images, some defective.

    A draw has as many images as the run's own calibration, and is judged by all other test images.
    """
    tasks = list(scores_in(run))
    every = {task: scores for task, scores, _ in tasks}
    for task, scores, tested in tasks:
        if len(tested.good) < LEAST_GOOD:
            continue
        count = min(len(scores), len(tested.good) // 2)
        for name, formula in formulas_for(task, every).items():
            means = [drawn_thresholds(tested, count, share, formula) for share in SHARES]
            least, most = None, None
            if formula is limit:
                least = 100 * LEAST_RECALL * means[0][1]
                most = 100 * MOST_ALARMS * FALSE_ALARM_RATE
            for share, (alarms, found) in zip(SHARES, means, strict=True):
                what = f"{task}, {name}, {share:.0%} of {count} calibration images defective"
                yield Row(f"{what}: defective ones found", 100 * found, "%", least=least)
                yield Row(f"{what}: false alarms", 100 * alarms, "%", most=most)


def drawn_thresholds(
    tested: OracleScores,
    count: int,
    share: float,
    formula: Formula,
) -> tuple[float, float]:
    """Mean shares of false alarms and of defective images found, over draws of `count` images."""
    good, defective = np.array(tested.good), np.array(tested.defective)
    generator, results = np.random.default_rng(0), []
    for _ in range(DRAWS):
        order, bad = generator.permutation(good), generator.binomial(count, share)
        drawn = [*order[: count - bad], *generator.choice(defective, bad)]
        value = formula(drawn, FALSE_ALARM_RATE)
        results.append(((order[count - bad :] > value).mean(), (defective > value).mean()))
    alarms, found = np.mean(results, 0).tolist()
    return alarms, found
