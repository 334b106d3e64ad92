import math

import numpy as np
import pytest
from scipy.stats import beta as beta_distribution
from scipy.stats import betabinom
from scipy.stats import f as f_distribution

from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.thresholds import (
    RATES,
    AlarmRates,
    images_for,
    limit,
    limit_by_all,
    threshold,
)


@pytest.mark.parametrize(("images", "rate"), [(199, 0.01), (99, 0.01), (60, 0.05), (500, 0.002)])
def test_false_alarms_follow_the_stated_distribution_for_any_scores(
    images: int, rate: float
) -> None:
    """Simulated: how often new good images exceed the limit, over many calibrations."""
    generator = np.random.default_rng(0)
    shares, found = [], threshold(generator.normal(size=images), rate)
    assert not found.extrapolated
    for _ in range(800):
        value = threshold(generator.normal(size=images), rate).value
        # what a normal score exceeds it with, exactly
        shares.append(0.5 * math.erfc(value / math.sqrt(2)))
    assert np.mean(shares) == pytest.approx(rate, rel=0.15)
    inside = np.mean([found.low <= share <= found.high for share in shares])
    assert inside == pytest.approx(0.99, abs=0.01)


def test_hits_among_new_images_follow_the_beta_binomial() -> None:
    generator = np.random.default_rng(1)
    hits = [
        (generator.exponential(size=100) > threshold(generator.exponential(size=99)).value).sum()
        for _ in range(1000)
    ]
    expected = betabinom(100, 1, 99)  # the 99th of 99 scores: Beta(1, 99)
    assert np.mean(hits) == pytest.approx(expected.mean(), rel=0.15)
    assert np.mean(np.array(hits) == 0) == pytest.approx(expected.pmf(0), abs=0.05)


def test_rate_that_so_few_images_cannot_support_is_an_extrapolation() -> None:
    generator = np.random.default_rng(0)
    assert not threshold(range(99), 0.01).extrapolated
    assert threshold(range(98), 0.01).extrapolated
    limits = [threshold(generator.exponential(size=59), 0.01) for _ in range(800)]
    assert all(one.extrapolated and one.low == 0 for one in limits)
    # the exponential is what the tail is assumed to be: the mean rate is the one asked for, but
    # where the highest score lies above it
    shares = [math.exp(-one.value) for one in limits]
    assert np.mean(shares) == pytest.approx(0.01, rel=0.15)
    # the interval assumes nothing of a tail
    uniform = [1 - min(threshold(generator.random(59), 0.01).value, 1) for _ in range(500)]
    assert np.mean([share <= limits[0].high for share in uniform]) >= 0.99


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "images", [pytest.param(5, marks=SLOW), 11, pytest.param(20, marks=SLOW), 59]
)
def test_an_extrapolated_rate_is_hardly_above_the_one_asked_for(images: int) -> None:
    generator = np.random.default_rng(0)
    limits = [threshold(generator.exponential(size=images), 0.01) for _ in range(4000)]
    # a little above it, because the highest of good images now and then pass for defective
    assert 0.004 < np.mean([math.exp(-one.value) for one in limits]) < 0.0115


@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_handful_of_images_gives_a_wide_interval(images: int) -> None:
    found = threshold([3.0] * images, 0.01)
    assert found.value == 3.0
    assert found.extrapolated
    assert found.high == pytest.approx(1 - 0.005 ** (1 / images))


def test_lower_rates_have_higher_thresholds_across_the_seam() -> None:
    scores = np.random.default_rng(0).gamma(3, size=150)
    values = [threshold(scores, rate).value for rate in (0.2, 0.05, 0.01, 0.005, 0.001, 1e-5)]
    assert values == sorted(values)
    assert values[-3] < values[-2] < values[-1]


def contaminated(share: float, images: int, seed: int) -> np.ndarray:
    """Scores with an exponential tail, and of so many defective images as chance has it."""
    generator = np.random.default_rng(seed)
    defective = generator.random(images) < share
    return np.where(defective, generator.uniform(4, 40, images), generator.exponential(size=images))


def share_above(value: float) -> tuple[float, float]:
    """Shares of good and of defective images above a limit, exactly."""
    return math.exp(-value), min(1.0, max(0.0, (40 - value) / 36))


@pytest.mark.parametrize("images", [30, 100, 250])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_defective_calibration_images_leave_recall_and_false_alarms(
    images: int, share: float
) -> None:
    clean = [share_above(threshold(contaminated(0, images, seed)).value) for seed in range(100)]
    found = [share_above(threshold(contaminated(share, images, seed)).value) for seed in range(100)]
    plain = [share_above(limit_by_all(contaminated(share, images, seed))) for seed in range(100)]
    alarms, recall = np.mean(found, axis=0)
    assert alarms <= 2 * 0.01
    assert recall >= 0.8 * np.mean(clean, axis=0)[1]
    # what it would be if all images were taken for good
    assert recall > np.mean(plain, axis=0)[1]


def test_outliers_are_those_of_the_f_distribution_of_an_exponentials_spacings() -> None:
    """Literally, by a loop over how many of the highest scores are tried."""
    told = []
    for seed in range(60):
        scores = contaminated(0.03 * (seed % 2), 50, seed)
        ordered = sorted(scores, reverse=True)
        spacings = [(i + 1) * (ordered[i] - ordered[i + 1]) for i in range(15)]
        odds = [
            f_distribution.sf(np.mean(spacings[:j]) / np.mean(spacings[5:]), 2 * j, 20)
            for j in range(1, 6)
        ]
        outliers = min(odds) < 0.05 / 5
        mean, quantile = np.mean(spacings[5:]), 10 * ((0.01 * 51 / 16) ** (-1 / 10) - 1)
        robust = ordered[15] + mean * quantile
        plain = limit_by_all(scores)
        expected = min(robust, plain) if outliers else plain
        assert threshold(scores).value == limit(scores) == pytest.approx(expected, rel=1e-9)
        assert threshold(scores).suspects == (sum(scores > expected) if outliers else 0)
        told.append(outliers)
    assert 3 < sum(told) < 57


def test_interval_of_a_robust_limit_takes_suspects_for_good() -> None:
    scores = [*np.random.default_rng(0).exponential(size=97), 100.0, 200.0, 300.0]
    found = threshold(scores)
    assert found.suspects == 3
    assert found.extrapolated
    assert found.low == 0
    assert found.high == pytest.approx(beta_distribution(4, 97).ppf(0.995))


def test_scores_that_are_all_alike_are_the_threshold() -> None:
    assert threshold([1.0] * 40).value == 1
    found = threshold([1.0] * 39 + [2.0])
    assert (found.value, found.suspects) == (1, 1)


def test_rate_above_the_tail_takes_every_image_for_good() -> None:
    scores = contaminated(0.05, 100, 0)
    assert threshold(scores, 0.5).value == limit_by_all(scores, 0.5)


@pytest.mark.parametrize("rate", [0.0, 1e-300, 1e-7, 1.0, -0.1, math.nan])
def test_invalid_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="must be a number from 1e-06 to below 1"):
        threshold([1.0], rate)


def test_no_image_makes_no_threshold() -> None:
    with pytest.raises(ConfigError, match="at least one good image"):
        threshold([], 0.01)


@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.01])
def test_tail_is_that_of_the_f_distribution(size: int, rate: float) -> None:
    scores = np.arange(size + 1.0) ** 2
    excess = (scores[1:]).mean() * f_distribution(2, 2 * size).isf(rate * (size + 2) / (size + 1))
    assert limit(scores, rate) == pytest.approx(excess, rel=1e-9)


@pytest.mark.parametrize("images", [1, 2, 11, 59, 500])
def test_alarm_rate_is_the_lowest_rate_whose_limit_a_score_exceeds(images: int) -> None:
    generator = np.random.default_rng(images)
    scores = generator.exponential(size=images)
    values = [*generator.exponential(size=20), *(scores[:5] + 1e-9), scores.max() * 3, 0.0]
    for value, rate in zip(values, AlarmRates(scores)(values), strict=True):
        lower = [other for other in RATES if other < rate]
        assert rate == 1 or limit(scores, rate) < value
        assert not lower or limit(scores, lower[-1]) >= value


def test_score_that_is_no_number_is_flagged_at_every_rate() -> None:
    assert AlarmRates([1.0, 2.0])([math.nan, math.inf, -math.inf]) == [RATES[0], RATES[0], 1.0]


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.03, 0.001])
def test_from_so_many_images_on_nothing_is_extrapolated(rate: float) -> None:
    images = images_for(rate)
    assert not threshold(range(images), rate).extrapolated
    assert threshold(range(images - 1), rate).extrapolated
