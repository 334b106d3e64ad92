import math

import pytest

from moleflow_pl.metrics.decisions import count_decisions, rate_of_recall, share, shares_by_rate
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.thresholds import RATES
from tests.helpers.scores import decided

CALIBRATION = Calibration(*[[1.0, 2.0, 2.5]] * 4, false_alarm_rate=0.05)


def rows(labels: list[int], scores: list[float], unknown: tuple[int, ...] = ()) -> list[dict]:
    """Rows of images, decided about by the threshold 10."""
    decisions = decided(scores, 10.0, unknown)
    return [{"gt_label": label, **one} for label, one in zip(labels, decisions, strict=True)]


@pytest.mark.parametrize(("count", "of"), [(0, 7), (3, 7), (7, 7), (61, 1113)])
def test_interval_is_wilsons(count: int, of: int) -> None:
    z, p = 1.959963984540054, count / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    found = share(count, of)
    assert found["share"] == p
    assert found["low"] == pytest.approx(middle - half, abs=1e-9)
    assert found["high"] == pytest.approx(middle + half, abs=1e-9)


def test_share_of_nothing_is_unknown_and_not_zero() -> None:
    assert share(0, 0) == {"count": 0, "of": 0, "share": None, "low": None, "high": None}


def test_labels_are_counted_by_what_the_images_are() -> None:
    labels, scores = [0, 0, 0, 1, 1, 1, 1], [1.0, 12.0, 2.0, 20.0, 3.0, 4.0, 30.0]
    found = count_decisions(rows(labels, scores, unknown=(2, 6)), CALIBRATION)
    assert found["threshold"] == CALIBRATION.limits().score
    assert (found["false_alarm_rate"], found["calibration_images"]) == (0.05, 3)
    assert (found["good"], found["false_alarms"], found["unknown_good"]) == (3, 1, 1)
    # an unknown product is neither found nor missed
    assert (found["defective"], found["found"], found["missed"]) == (4, 1, 2)
    assert found["unknown_defective"] == 1


def test_images_that_nothing_decided_about_are_left_out() -> None:
    undecided = dict.fromkeys(("label", "threshold", "alarm_rate"))
    images = [{"gt_label": 0, **undecided}, {"gt_label": 1, **undecided}]
    found = count_decisions(images, None)
    assert (found["threshold"], found["good"], found["defective"]) == (None, 0, 0)
    assert found["target_rate"] is None
    assert shares_by_rate(images) == {}


@pytest.mark.parametrize(("recall", "needed"), [(0.5, 2), (0.75, 3), (0.76, 4)])
def test_rate_of_a_recall_is_the_lowest_that_finds_so_many(recall: float, needed: int) -> None:
    images = rows([1] * 4, [12.0, 9.0, 11.0, 8.5])
    rate = rate_of_recall(images, recall)
    assert rate is not None
    assert sum(row["alarm_rate"] <= rate for row in images) == needed
    assert sum(row["alarm_rate"] < rate for row in images) == needed - 1


def test_recall_beyond_what_is_known_has_no_rate() -> None:
    images = rows([1, 1], [12.0, 13.0], unknown=(0,))
    assert rate_of_recall(images, 0.5) is not None
    assert rate_of_recall(images, 0.95) is None
    assert rate_of_recall(rows([1], [-90.0]), 0.95) is None
    assert rate_of_recall([], 0.95) is None


def test_target_counts_the_false_alarms_at_its_rate() -> None:
    labels, scores = [0, 0, 0, 1, 1], [1.0, 12.0, 8.9, 20.0, 9.0]
    found = count_decisions(rows(labels, scores), CALIBRATION, target_recall=1.0)
    assert found["target_rate"] == pytest.approx(0.1)
    assert found["target_false_alarms"] == 1


def test_curves_fall_and_rise_with_the_rate_and_meet_the_counts() -> None:
    images = rows([0, 0, 1, 1, 1], [9.0, 12.0, 20.0, 8.5, 9.5], unknown=(2,))
    shares = shares_by_rate(images)
    missed, alarms = shares["missed defects"], shares["false alarms"]
    assert missed == sorted(missed, reverse=True)
    assert alarms == sorted(alarms)
    at = RATES.index(0.01)  # the rate of the threshold
    counts = count_decisions(images, CALIBRATION)
    assert missed[at] == pytest.approx(counts["missed"] / 3)
    assert alarms[at] == pytest.approx(counts["false_alarms"] / 2)
    assert "missed defects" not in shares_by_rate(images[:2])
