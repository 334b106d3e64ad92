"""Oracle scores of a task's test images, independent of other tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moleflow_pl.tasks.thresholds import LARGEST_SCORE


@dataclass
class OracleScores:
    """Oracle scores of a task's test images, from the last evaluation with test images.

    Adding a product or changing a threshold does not change them.

    Attributes:
        good: Scores of the good images.
        defective: Scores of the defective ones.
    """

    good: list[float] = field(default_factory=list)
    defective: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> OracleScores:
        """The scores in the rows of an evaluation.

        Example:
            >>> OracleScores.of([{"gt_label": 1, "oracle_score": 3.0}])
            OracleScores(good=[], defective=[3.0])
        """
        result = cls()
        for row in rows:
            score = row["oracle_score"]
            scores = result.defective if row["gt_label"] else result.good
            # NaN and infinity count as a defect; files hold finite numbers alone
            scores.append(score if math.isfinite(score) else LARGEST_SCORE)
        return result

    def count_above(self, threshold: float) -> int:
        """Number of defective images above a threshold.

        Example:
            >>> OracleScores(defective=[1.0, 2.0, 3.0]).count_above(1.5)
            2
        """
        return sum(score > threshold for score in self.defective)
