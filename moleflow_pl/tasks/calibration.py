"""From scores of good images that were held out to decisions, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import beta
from scipy.stats import f as f_distribution
from torch import Tensor

from moleflow_pl.errors import ConfigError

FALSE_ALARM_RATE = 0.01
CONFIDENCE = 0.99  # of an interval
TAIL_SHARE = 0.2  # of the images: their highest scores make the tail
TAIL_IMAGES = 10  # fewer make no tail, where there are more
MIDDLE_VALUE = 0.05  # of the comparable score, for the middle good image


@dataclass(frozen=True)
class Threshold:
    """A limit on a score, and how many of the good images to come may exceed it.

    Attributes:
        value: Scores above it are too high.
        rate: The share of good images that was to exceed it.
        images: Good images behind it.
        low: Lower end of the 99 % interval of the true share.
        high: Its upper end.
        extrapolated: Whether so few images cannot support the rate, and a tail was assumed.
    """

    value: float
    rate: float
    images: int
    low: float
    high: float
    extrapolated: bool


def threshold(scores: Sequence[float], rate: float = FALSE_ALARM_RATE) -> Threshold:
    """Find the limit that a share `rate` of good images exceeds.

    With the images' scores in order, the share of new ones above the k-th is distributed as
    Beta(n + 1 - k, k), whatever the scores' own distribution; k = ceil((1 - rate)(n + 1)) keeps its
    mean at or below the rate. Where that k exceeds n, the scores' upper part is continued as an
    exponential tail; the interval then assumes no tail, only that the limit lies above all n.

    Args:
        scores: Of good images that nothing was learned from, at least one.
        rate: Share of good images that may be called defective, in (0, 1).

    Raises:
        ConfigError: the rate is none, or there is no score.

    References: Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World", chapter 2;
    for the tail the F-distribution of an exponential's next value, Lawless 2003, section 4.1.

    Example:
        >>> limit = threshold(range(199), rate=0.01)
        >>> limit.value, limit.images, limit.extrapolated
        (197.0, 199, False)
    """
    check_rate(rate)
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(ordered)
    if not count:
        raise ConfigError("a threshold needs the scores of at least one good image")
    # rounded first: 0.99 x 100 is a little more than 99
    k = math.ceil(round((1 - rate) * (count + 1), 9))
    extrapolated = k > count
    value = max(_tail_quantile(ordered, rate), ordered[-1]) if extrapolated else ordered[k - 1]
    k = min(k, count)
    outside = (1 - CONFIDENCE) / 2
    share = beta(count + 1 - k, k)
    low = 0.0 if extrapolated else float(share.ppf(outside))
    return Threshold(
        float(value), rate, count, low, float(share.ppf(1 - outside)), bool(extrapolated)
    )


def check_rate(rate: float) -> None:
    """Refuse what is no false-alarm rate.

    Raises:
        ConfigError: it does not lie between 0 and 1.
    """
    if not isinstance(rate, (int, float)) or not 0 < rate < 1:
        raise ConfigError(f"a false-alarm rate lies between 0 and 1, got {rate!r}")


def _tail_quantile(ordered: np.ndarray, rate: float) -> float:
    """Where an exponential tail over the upper scores leaves a share `rate`, seen beforehand.

    The next value is above the base, the (m+1)-th largest of n, in m + 1 of n + 1 cases; its
    excess, divided by the mean excess of m, then has the distribution F(2, 2m).
    """
    count = len(ordered)
    size = min(max(math.ceil(TAIL_SHARE * count), TAIL_IMAGES), count - 1)
    if size < 1:
        return float(ordered[-1])
    base = ordered[-size - 1]
    excess = (ordered[-size:] - base).mean()
    return float(base + excess * f_distribution(2, 2 * size).isf(rate * (count + 1) / (size + 1)))


@dataclass(frozen=True)
class Limits:
    """The numbers that decisions about a product are made by.

    Attributes:
        score: Images with a higher score are anomalous.
        median_score: Score of the middle good image.
        pixel: Pixels with a higher score are anomalous.
        median_patch_score: Score of an ordinary patch.
    """

    score: float
    median_score: float
    pixel: float
    median_patch_score: float

    def comparable(self, score: float) -> float:
        """A score in 0..1 that means the same for every product.

        The threshold becomes 0.5 and the middle good image 0.05, on a logistic curve.

        Example:
            >>> limits = Limits(score=20.0, median_score=10.0, pixel=0.0, median_patch_score=0.0)
            >>> limits.comparable(20.0), round(limits.comparable(10.0), 2)
            (0.5, 0.05)
        """
        scale = (self.score - self.median_score) / math.log(1 / MIDDLE_VALUE - 1)
        if not scale:
            return 0.5 * (1 + float(np.sign(score - self.score)))
        # a far score would overflow the exponential
        return 1 / (1 + math.exp(min(-(score - self.score) / scale, 700.0)))


@dataclass
class Calibration:
    """What good images that were held out looked like to a task's finished expert.

    Plain lists of one number an image, small enough for a checkpoint: a threshold for any rate
    follows from them, without an image and without training.

    Attributes:
        scores: The images' scores.
        peaks: The highest score of a patch of each.
        levels: The middle score of a patch of each.
        novelty_distances: How far each is from the product's good images.
        damaged: The same after damage that leaves a product known, the farthest of each image.
        products: Which of the task's products each shows.
        false_alarm_rate: Share of good images that may be called defective.
    """

    scores: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    novelty_distances: list[float] = field(default_factory=list)
    damaged: list[float] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    false_alarm_rate: float = FALSE_ALARM_RATE

    def add(
        self,
        scores: Tensor,
        patch_scores: Tensor,
        novelty_distances: Tensor,
        products: Sequence[str],
    ) -> None:
        """Add images: scores and novelty distances (B,), patch scores (B, h, w), products, B."""
        patches = patch_scores.flatten(1)
        self.scores += scores.tolist()
        self.peaks += patches.amax(1).tolist()
        self.levels += patches.median(1).values.tolist()
        self.novelty_distances += novelty_distances.tolist()
        self.products += products

    def of(self, product: str) -> Calibration:
        """The part of one product of a task; all where no image is known to show it.

        Example:
            >>> both = Calibration(scores=[1.0, 2.0, 3.0], products=["a", "b", "a"])
            >>> both.of("a").scores, both.of("a+b").scores
            ([1.0, 3.0], [1.0, 2.0, 3.0])
        """
        chosen = [i for i, one in enumerate(self.products) if one == product]
        lists = {name: value for name, value in vars(self).items() if isinstance(value, list)}
        parts: Any = {name: [v[i] for i in chosen] for name, v in lists.items() if v}
        return replace(self, **parts) if chosen else self

    @property
    def score_threshold(self) -> Threshold:
        """Limit on an image's score."""
        return threshold(self.scores, self.false_alarm_rate)

    @property
    def pixel_threshold(self) -> Threshold:
        """Limit on a pixel's score: that share of good images has a pixel above it."""
        return threshold(self.peaks, self.false_alarm_rate)

    @property
    def novelty_limit(self) -> float:
        """Limit on the distance to the product's good images, beyond which it is another product.

        Good images would allow a lower one, but a damaged part is far from them too. So it is what
        a hundredth of good images exceeds after damage, and infinite where none was tried.
        """
        if not self.damaged:
            return math.inf
        return max(threshold(self.damaged).value, threshold(self.novelty_distances).value)

    def limits(self) -> Limits:
        """The numbers that decisions are made by."""
        return Limits(
            score=self.score_threshold.value,
            median_score=float(np.median(self.scores)),
            pixel=self.pixel_threshold.value,
            median_patch_score=float(np.median(self.levels)),
        )
