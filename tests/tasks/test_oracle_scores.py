import math

import pytest

from moleflow_pl.tasks.oracle_scores import OracleScores


def test_oracle_scores_are_separated_by_label() -> None:
    rows = [
        {"gt_label": label, "oracle_score": float(i), "score": -1.0}
        for i, label in enumerate([0, 1, 1, 0])
    ]
    assert OracleScores.of(rows) == OracleScores(good=[0.0, 3.0], defective=[1.0, 2.0])


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_counts_as_a_defect_and_can_be_saved(score: float) -> None:
    tested = OracleScores.of([{"gt_label": 1, "oracle_score": score}])
    assert tested.count_above(1e30) == 1
    assert all(map(math.isfinite, tested.defective))


def test_a_score_at_the_threshold_is_not_above_it() -> None:
    assert OracleScores(defective=[1.0, 2.0, 3.0]).count_above(2.0) == 1
