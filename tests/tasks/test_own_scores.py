import math

import pytest

from moleflow_pl.tasks.own_scores import OwnScores


def test_scores_are_kept_by_label_and_by_the_own_expert() -> None:
    rows = [
        {"gt_label": label, "oracle_score": float(i), "score": -1.0}
        for i, label in enumerate([0, 1, 1, 0])
    ]
    assert OwnScores.of(rows) == OwnScores(good=[0.0, 3.0], defective=[1.0, 2.0])


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_what_is_no_number_counts_as_found_and_can_be_saved(score: float) -> None:
    tested = OwnScores.of([{"gt_label": 1, "oracle_score": score}])
    assert tested.found(1e30) == 1
    assert all(map(math.isfinite, tested.defective))


def test_a_score_at_the_threshold_is_not_found() -> None:
    assert OwnScores(defective=[1.0, 2.0, 3.0]).found(2.0) == 1
