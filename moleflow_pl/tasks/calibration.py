"""Scores of calibration images, and the limits that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from moleflow_pl.errors import ConfigError
from moleflow_pl.tasks.thresholds import (
    FALSE_ALARM_RATE,
    LARGEST_SCORE,
    Threshold,
    limit,
    limit_by_all,
    threshold,
)

ImageKind = Literal["calibration", "training"]
PIXEL_SHARE = 0.01  # share of a typical good image's pixels above the pixel threshold
MEDIAN_VALUE = 0.05  # normalised score of the median calibration image


def middle(scores: Sequence[float]) -> float:
    """The median of scores.

    Raises:
        ConfigError: there is no score, or no score exceeds the median.

    Example:
        >>> middle([1.0, 9.0, 2.0])
        2.0
    """
    value = float(np.median(scores)) if len(scores) else math.nan
    if not abs(value) <= LARGEST_SCORE:  # `not <=`, so that NaN does not pass
        raise ConfigError(
            f"the scores of {len(scores)} images have the median {value:g}, and no score "
            "exceeds it: check these images and learn the product again"
        )
    return value


@dataclass(frozen=True)
class Limits:
    """Limits for decisions about the images of a product.

    Attributes:
        score: Threshold of the image score.
        median_score: Median score of the calibration images.
        pixel: Threshold of a pixel's score in an anomalous image.
        median_patch_score: Median over the images of their median patch score.
    """

    score: float
    median_score: float
    pixel: float
    median_patch_score: float

    def normalise(self, score: float) -> float:
        """Map a score to [0, 1], comparable between products.

        A logistic curve maps the threshold to 0.5 and the median calibration image to 0.05.

        Example:
            >>> limits = Limits(score=20.0, median_score=10.0, pixel=0.0, median_patch_score=0.0)
            >>> limits.normalise(20.0), round(limits.normalise(10.0), 2)
            (0.5, 0.05)
        """
        scale = (self.score - self.median_score) / math.log(1 / MEDIAN_VALUE - 1)
        if not scale:
            return 0.5 * (1 + float(np.sign(score - self.score)))
        # the exponential of a very low score would overflow
        return 1 / (1 + math.exp(min(-(score - self.score) / scale, 700.0)))


class Suspect(NamedTuple):
    """A calibration image or training image that looks defective.

    Attributes:
        image: Its name.
        score: Its score.
    """

    image: str
    score: float


class Ranking(NamedTuple):
    """Images of one kind, the highest score first.

    Attributes:
        images: The images with their scores.
        suspects: How many of them, from the first, look defective.
    """

    images: list[Suspect]
    suspects: int


@dataclass
class TrainingScores:
    """Image scores of a task's training images, each without its own patches in the memory banks.

    They show which of these images look defective. They do not predict the scores of future good
    images, since the flow has learned from them.

    Attributes:
        scores: Image scores.
        products: Product of each image.
        images: Name of each image, relative to their common folder.
    """

    scores: list[float] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def where(self, wanted: Callable[[str, str], bool]) -> TrainingScores:
        """Select images by product and name."""
        names = self.images or [""] * len(self.scores)
        rows = enumerate(zip(self.products, names, strict=True))
        places = [i for i, (product, image) in rows if wanted(product, image)]
        return TrainingScores(
            [self.scores[i] for i in places],
            [self.products[i] for i in places],
            [self.images[i] for i in places] if self.images else [],
        )


@dataclass
class Calibration:
    """Scores of a task's calibration images by its finished expert.

    Plain lists with one number for each image, small enough for a checkpoint. A threshold for any
    rate follows from them, without images and without training.

    Attributes:
        scores: Image scores.
        high_patch_scores: For each image, the score that 1 % of its patches exceed.
        median_patch_scores: Median patch score of each image.
        novelty_distances: Novelty distance of each image.
        damaged_novelty_distances: Largest novelty distance of each image after damage; damaged
            images of a known product count as known.
        products: Product of each image.
        images: Name of each image, relative to their common folder.
        brightness: Mean grey level of each image as the model sees it, in 0..1.
        training: Image scores of training images.
        false_alarm_rate: Share of good images that may be called defective.
    """

    scores: list[float] = field(default_factory=list)
    high_patch_scores: list[float] = field(default_factory=list)
    median_patch_scores: list[float] = field(default_factory=list)
    novelty_distances: list[float] = field(default_factory=list)
    damaged_novelty_distances: list[float] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    brightness: list[float] = field(default_factory=list)
    training: TrainingScores = field(default_factory=TrainingScores)
    false_alarm_rate: float = FALSE_ALARM_RATE

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Calibration:
        """Build a calibration from the plain data of a checkpoint."""
        return cls(**{**state, "training": TrainingScores(**state.get("training", {}))})

    def add(
        self,
        scores: Tensor,
        patch_scores: Tensor,
        novelty_distances: Tensor,
        products: Sequence[str],
    ) -> None:
        """Add a batch of images.

        Args:
            scores: Image scores (B,).
            patch_scores: Scores of the patches that count (B, h, w).
            novelty_distances: Novelty distances (B,).
            products: Products of the images, B.
        """
        patches = patch_scores.flatten(1)
        self.scores += scores.tolist()
        self.high_patch_scores += patches.quantile(1 - PIXEL_SHARE, dim=1).tolist()
        self.median_patch_scores += patches.median(1).values.tolist()
        self.novelty_distances += novelty_distances.tolist()
        self.products += products

    def for_product(self, product: str) -> Calibration:
        """The calibration by the images of one product; by all images if none shows it.

        Example:
            >>> group = Calibration(scores=[1.0, 2.0, 3.0], products=["a", "b", "a"])
            >>> group.for_product("a").scores, group.for_product("a+b").scores
            ([1.0, 3.0], [1.0, 2.0, 3.0])
        """
        indices = [i for i, shown in enumerate(self.products) if shown == product]
        if not indices:
            return self
        return self._at(indices, self.training.where(lambda shown, _: shown == product))

    def without(self, images: Collection[str]) -> Calibration:
        """The calibration without some images; names of training images are allowed too.

        Args:
            images: Names of the images to leave out.

        Raises:
            ConfigError: no calibration image would be left, of the task or of one of its products.

        Example:
            >>> Calibration(scores=[1.0, 9.0], images=["a.png", "b.png"]).without(["b.png"]).scores
            [1.0]
        """
        indices = [i for i, image in enumerate(self.images) if image not in images]
        left = {self.products[i] for i in indices} if self.products else set()
        gone = sorted(set(self.products) - left)
        if not indices or gone:
            # a product without images of its own would get the limits of the others
            of = f"of {', '.join(gone)}" if gone else f"of {len(self.images)}"
            raise ConfigError(f"no calibration image would be left {of}: exclude fewer images")
        return self._at(indices, self.training.where(lambda _, image: image not in images))

    def with_more(self, other: Calibration) -> Calibration:
        """The calibration by the images of both; a list that one of them lacks becomes empty.

        Example:
            >>> Calibration([1.0], images=["a.png"]).with_more(Calibration([2.0])).scores
            [1.0, 2.0]
        """
        more = vars(other)
        lists: Any = {
            name: [*value, *more[name]] if value and more[name] else []
            for name, value in vars(self).items()
            if isinstance(value, list)
        }
        return replace(self, **lists)

    def _at(self, indices: Sequence[int], training: TrainingScores) -> Calibration:
        lists = {name: value for name, value in vars(self).items() if isinstance(value, list)}
        parts: Any = {name: [v[i] for i in indices] for name, v in lists.items() if v}
        return replace(self, training=training, **parts)

    @property
    def suspects(self) -> list[Suspect]:
        """Images that look defective, the highest of each kind first.

        Suspect calibration images do not count for the threshold. Training images are judged among
        themselves: the flow has learned from them, so they score lower than new images would.
        """
        return [image for kind in self.ranked.values() for image in kind.images[: kind.suspects]]

    @property
    def ranked(self) -> dict[ImageKind, Ranking]:
        """The images whose names are known, by kind."""
        training = self.training
        return {
            "calibration": self._ranking(self.scores, self.images),
            "training": self._ranking(training.scores, training.images),
        }

    def _ranking(self, scores: Sequence[float], images: Sequence[str]) -> Ranking:
        if len(images) != len(scores) or not scores:  # the names are unknown
            return Ranking([], 0)
        ranked = sorted(zip(scores, images, strict=True), reverse=True)
        count = threshold(scores, self.false_alarm_rate).suspects
        return Ranking([Suspect(image, score) for score, image in ranked], count)

    @property
    def score_threshold(self) -> Threshold:
        """Threshold of the image score."""
        return threshold(self.scores, self.false_alarm_rate)

    @property
    def pixel_threshold(self) -> float:
        """The score that 1 % of a typical good image's patches exceed: the median over the images.

        It localises the defect in an anomalous image; it does not decide whether it is anomalous.
        """
        return middle(self.high_patch_scores)

    @property
    def novelty_limit(self) -> float:
        """Novelty distance beyond which an image shows another product.

        A limit from good images alone would be lower, but images of damaged parts are far from
        them too. So the limit is the distance that 1 % of good images exceed after damage; it is
        infinite if no image was damaged.
        """
        if not self.damaged_novelty_distances:
            return math.inf
        return max(
            limit_by_all(self.damaged_novelty_distances), limit_by_all(self.novelty_distances)
        )

    def limits(self) -> Limits:
        """The limits that decide about an image.

        Raises:
            ConfigError: the rate is out of range, there is no score, or no score exceeds a limit.
        """
        return Limits(
            score=limit(self.scores, self.false_alarm_rate),
            median_score=middle(self.scores),
            pixel=self.pixel_threshold,
            median_patch_score=middle(self.median_patch_scores),
        )
