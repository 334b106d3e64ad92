"""Scores of an expert's own test images, independent of other products."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moleflow_pl.tasks.thresholds import LARGEST_SCORE


@dataclass
class OwnScores:
    """Scores of a task's test images by its own expert, from the last evaluation with test images.

    Adding a product or changing a threshold does not change them.

    Attributes:
        good: Scores of the good images.
        defective: Scores of the defective ones.
    """

    good: list[float] = field(default_factory=list)
    defective: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> OwnScores:
        """The scores in the rows of an evaluation.

        Example:
            >>> OwnScores.of([{"gt_label": 1, "oracle_score": 3.0}])
            OwnScores(good=[], defective=[3.0])
        """
        tested = cls()
        for row in rows:
            score = row["oracle_score"]
            scores = tested.defective if row["gt_label"] else tested.good
            # NaN and infinity count as a defect; files hold finite numbers alone
            scores.append(score if math.isfinite(score) else LARGEST_SCORE)
        return tested

    def found(self, threshold: float) -> int:
        """Number of defective images above a threshold.

        Example:
            >>> OwnScores(defective=[1.0, 2.0, 3.0]).found(1.5)
            2
        """
        return sum(score > threshold for score in self.defective)
