"""From scores of good images to a threshold, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, fdtrc  # scipy.stats takes a second to import

from moleflow_pl.errors import ConfigError

FALSE_ALARM_RATE = 0.01
LOWEST_RATE = 1e-6  # a tail fitted to a few images says nothing about lower rates
LARGEST_SCORE = float(np.finfo(np.float32).max)  # scores are computed in float32
CONFIDENCE = 0.99  # level of a confidence interval
TAIL_SHARE = 0.2  # share of the images whose scores form the tail
TAIL_IMAGES = 10  # least number of images in the tail, if there are as many
DEFECTIVE_SHARE = 0.1  # largest share of the images that may be defective unnoticed
OUTLIER_LEVEL = 0.05  # probability that good images with an exponential tail look defective
# two-digit rates from 1e-6 to 0.99: easy to read and to type
RATES = [
    round(digits * 10.0**power, -power) for power in range(-7, -1) for digits in range(10, 100)
]


@dataclass(frozen=True)
class Threshold:
    """A limit on a score, and the share of future good images that may exceed it.

    Attributes:
        value: The limit; only higher scores exceed it.
        rate: The share of good images that should exceed it.
        images: Number of calibration images.
        low: Lower end of the 99 % confidence interval of the true share.
        high: Upper end of that interval.
        extrapolated: Whether a tail was fitted, because the images are too few for the rate or some
            are suspects.
        suspects: Number of images that are left out because they look defective.
    """

    value: float
    rate: float
    images: int
    low: float
    high: float
    extrapolated: bool
    suspects: int = 0


def threshold(scores: Sequence[float], rate: float = FALSE_ALARM_RATE) -> Threshold:
    """Find the limit that a share `rate` of good images exceeds.

    With n scores in ascending order, the share of new scores above the k-th is distributed as
    Beta(n + 1 - k, k), whatever the distribution of the scores; k = ceil((1 - rate)(n + 1)) keeps
    its mean at or below the rate. Where that k exceeds n, an exponential tail is fitted to the
    highest scores. The confidence interval then does not rely on the tail, only on the limit being
    above all n scores.

    A few defective images among them would put the limit above most defects. So if the highest
    tenth lies further out than an exponential tail, the tail is fitted to the scores below it;
    images above the limit are suspects. The confidence interval still counts suspects as good.

    Args:
        scores: Scores of calibration images, at least one.
        rate: Share of good images that may be called defective, from 1e-6 to below 1.

    Raises:
        ConfigError: the rate is out of range, there is no score, or no score exceeds the limit.

    References: Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World", chapter 2;
    for the tail the F-distribution of an exponential's next value and its censored samples,
    Lawless 2003, section 4.1; for outliers Barnett & Lewis 1994, section 6.4.

    Example:
        >>> limit = threshold(range(199), rate=0.01)
        >>> limit.value, limit.images, limit.extrapolated
        (197.0, 199, False)
        >>> threshold([*range(99), 1000, 2000, 3000]).suspects
        3
    """
    check_rate(rate)
    ordered = _ascending(scores)
    plain = _limit_of(ordered, rate)
    value = _robust_quantile(ordered, rate, _censored(ordered))
    count = len(ordered)
    suspects = int((ordered > value).sum()) if value < plain else 0
    k = _rank(count, rate)
    extrapolated = k > count or value < plain
    k = min(k, count - suspects)
    outside = (1 - CONFIDENCE) / 2
    low, high = betaincinv(count + 1 - k, k, (outside, 1 - outside)).tolist()
    low = 0.0 if extrapolated else low
    return Threshold(value, rate, count, low, high, extrapolated, suspects)


def limit(scores: Sequence[float], rate: float = FALSE_ALARM_RATE) -> float:
    """The value of a `threshold`, without its confidence interval.

    Raises:
        ConfigError: the rate is out of range, there is no score, or no score exceeds the limit.
    """
    check_rate(rate)
    ordered = _ascending(scores)
    _limit_of(ordered, rate)  # as a check: the robust limit is not higher
    return _robust_quantile(ordered, rate, _censored(ordered))


def limit_by_all(scores: Sequence[float], rate: float = FALSE_ALARM_RATE) -> float:
    """The limit that a share `rate` of good images exceeds, without looking for suspects.

    Raises:
        ConfigError: the rate is out of range, there is no score, or no score exceeds the limit.
    """
    check_rate(rate)
    return _limit_of(_ascending(scores), rate)


def _ascending(scores: Sequence[float]) -> np.ndarray:
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    if not len(ordered):
        raise ConfigError(
            "a threshold needs the scores of at least one good image: calibrate with more images"
        )
    return ordered


def _limit_of(ordered: np.ndarray, rate: float) -> float:
    """The limit by ascending scores.

    Raises:
        ConfigError: no score exceeds the limit.
    """
    value = _quantile(ordered, rate)
    if not abs(value) <= LARGEST_SCORE:  # `not <=`, so that NaN does not pass
        raise ConfigError(
            f"the scores of {len(ordered)} images give the limit {value:g} at a rate of {rate:g}: "
            "no score exceeds the limit, so all images would be normal; check these images"
        )
    return value


class AlarmRates:
    """The false-alarm rates at which images would be called defective.

    Args:
        scores: Scores of calibration images, at least one.
    """

    def __init__(self, scores: Sequence[float]) -> None:
        ordered = _ascending(scores)
        censored = _censored(ordered)
        # ascending: a higher rate has a lower limit
        self._limits = np.array(
            [_robust_quantile(ordered, rate, censored) for rate in reversed(RATES)]
        )

    def __call__(self, scores: Sequence[float]) -> list[float]:
        """The lowest rate, of `RATES`, whose limit each score exceeds; 1 where there is none.

        A score that is NaN exceeds every limit.

        Example:
            >>> AlarmRates(range(199))([197.5, 100.0, -1.0])
            [0.01, 0.5, 1.0]
        """
        exceeded = np.searchsorted(self._limits, np.asarray(scores, dtype=np.float64))
        return [RATES[-count] if count else 1.0 for count in exceeded.tolist()]


def images_for(rate: float) -> int:
    """Number of calibration images from which a limit on this rate is no longer extrapolated.

    Example:
        >>> images_for(0.01), images_for(0.05)
        (99, 19)
    """
    return math.ceil(round(1 / rate, 9)) - 1


def _quantile(ordered: np.ndarray, rate: float) -> float:
    """The limit by ascending scores, finite or not."""
    k = _rank(len(ordered), rate)
    highest = ordered[min(k, len(ordered)) - 1]
    return float(highest if k <= len(ordered) else max(_tail_quantile(ordered, rate), highest))


def _robust_quantile(ordered: np.ndarray, rate: float, censored: int) -> float:
    """The limit by the scores below those that are censored, where the rate lies in their tail."""
    count, plain = len(ordered), _quantile(ordered, rate)
    if not censored or rate * (count + 1) >= censored + tail_size(count) + 1:
        return plain
    return min(_tail_quantile(ordered, rate, censored), plain)


def _censored(ordered: np.ndarray) -> int:
    """Number of the highest scores to leave out: a tenth if it lies too far out, otherwise none.

    The normalised spacings of an exponential tail, i (x_i - x_(i+1)) with x_1 the highest, are
    independent exponentials of one mean, so that of two sets of them the ratio of the means has an
    F-distribution.
    """
    count = len(ordered)
    doubtful = math.ceil(DEFECTIVE_SHARE * count)
    size = doubtful + tail_size(count)
    if size >= count:
        return 0
    spacings = _spacings(ordered, size)
    highest = np.arange(1, doubtful + 1)
    with np.errstate(all="ignore"):  # spacings may all be 0, and scores as large as floats can be
        means = spacings[:doubtful].cumsum() / highest
        odds = fdtrc(2 * highest, 2 * (size - doubtful), means / spacings[doubtful:].mean())
    return doubtful if (odds < OUTLIER_LEVEL / doubtful).any() else 0


def _rank(count: int, rate: float) -> int:
    """Rank, among `count` ascending scores, of the limit; beyond `count` if they are too few."""
    # rounded first: in floating point 0.99 x 100 is a little more than 99
    return math.ceil(round((1 - rate) * (count + 1), 9))


def check_rate(rate: float) -> None:
    """Check a false-alarm rate.

    Raises:
        ConfigError: the rate is not a number from 1e-6 to below 1.
    """
    if not isinstance(rate, (int, float)) or not LOWEST_RATE <= rate < 1:
        raise ConfigError(
            f"false_alarm_rate must be a number from {LOWEST_RATE:g} to below 1, got {rate!r}"
        )


def tail_size(count: int) -> int:
    """Number of `count` scores that form the tail."""
    return max(math.ceil(TAIL_SHARE * count), TAIL_IMAGES)


def _spacings(ordered: np.ndarray, size: int) -> np.ndarray:
    """Normalised spacings of the `size` highest scores, from the highest down."""
    top = ordered[: -size - 2 : -1]
    return np.arange(1, size + 1) * (top[:-1] - top[1:])


def _tail_quantile(ordered: np.ndarray, rate: float, censored: int = 0) -> float:
    """Limit that the next score exceeds with probability `rate`, for an exponential tail.

    The next score is above the base, the (m+1)-th largest of n, with probability
    (m + 1) / (n + 1); its excess, divided by the mean of the k normalised spacings that are not
    censored, then has the distribution F(2, 2k), which exceeds x with probability (1 + x / k)^-k.
    With none censored, that mean is the mean excess of the m scores above the base.

    Args:
        ordered: Scores in ascending order.
        rate: The probability.
        censored: Number of the highest scores of which only the rank counts.
    """
    count = len(ordered)
    size = min(tail_size(count) + censored, count - 1)
    if size < 1:
        return float(ordered[-1])
    k = size - censored
    with np.errstate(all="ignore"):  # for absurd scores; the limit is checked afterwards
        mean = _spacings(ordered, size)[censored:].mean()
        factor = k * ((rate * (count + 1) / (size + 1)) ** (-1 / k) - 1)
        return float(ordered[-size - 1] + mean * factor)
