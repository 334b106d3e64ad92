import pytest

from moleflow_pl.metrics.image import mean_of
from moleflow_pl.metrics.task_matrix import (
    average,
    backward_transfer,
    decisions_changed,
    forgetting,
    forward_transfer,
    matrix_row,
)
from tests.helpers.scores import CALIBRATED, THRESHOLD, decided, scored

MATRIX = [[0.9, None, None], [0.95, 0.8, None], [0.7, 0.85, 0.6]]


def test_matrix_numbers_follow_their_formulas() -> None:
    assert average(MATRIX) == pytest.approx((0.7 + 0.85 + 0.6) / 3)
    assert forgetting(MATRIX) == pytest.approx(((0.95 - 0.7) + (0.8 - 0.85)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.7 - 0.9) + (0.85 - 0.8)) / 2)


def test_what_was_not_measured_is_left_out() -> None:
    matrix = [[0.9, None, None], [None, 0.8, None], [None, 0.7, 0.6]]
    assert average(matrix) == pytest.approx(0.65)
    assert forgetting(matrix) == pytest.approx(0.1)
    assert backward_transfer(matrix) == pytest.approx(-0.1)


def test_forward_transfer_is_what_is_reached_above_chance() -> None:
    assert forward_transfer([0.7, None, 0.6]) == pytest.approx(0.15)
    assert forward_transfer([]) is None


def test_one_task_forgets_nothing_and_nothing_is_no_zero() -> None:
    assert forgetting([[0.9]]) is None
    assert backward_transfer([[0.9]]) is None
    assert average([[None]]) is None
    assert mean_of([0.0, 0.0]) == 0.0
    assert forgetting([[0.0, None], [0.0, 0.5]]) == 0.0


def test_decisions_are_compared_task_by_task() -> None:
    rows = [
        {"routed_tasks": [[0, 0, 0]]},
        {"routed_tasks": [[0, 1, 0], [1, 1]]},
        {"routed_tasks": [None, [1, 2], [2]]},
        None,
    ]
    assert decisions_changed(rows) == [None, 1, 1, None]


def test_row_counts_where_images_went() -> None:
    first = scored(0, [0, 0, 1], [0, 1, 1], [1.0, 2.0, 3.0])
    second = scored(1, [0, 1], [1, 1], [1.0, 2.0])
    row = matrix_row([first, second], 2, {})
    assert row["confusion"] == [[1, 2], [0, 2]]
    assert row["routing"]["accuracy"] == pytest.approx(3 / 5)
    assert row["routing"]["accuracy_on_defects"] == pytest.approx(1 / 2)
    assert row["routing"]["per_task"]["accuracy"] == [pytest.approx(1 / 3), 1.0]
    assert row["routing"]["per_task"]["accuracy_on_defects"] == [0.0, 1.0]


def test_row_counts_what_was_decided_by_the_calibration_of_each_task() -> None:
    first = scored(0, [0, 1], [0, 0], [1.0, 9.0], decisions=decided([1.0, 9.0], 3.0))
    second = scored(1, [0, 1], [1, 1], [1.0, 2.0])
    calibrations = [CALIBRATED, None]
    row = matrix_row([first, second], 2, {}, calibrations, target_recall=0.5)
    assert row["decisions"][0]["a"]["found"] == 1
    assert row["decisions"][0]["a"]["threshold"] == THRESHOLD
    assert row["decisions"][0]["a"]["target_recall"] == 0.5
    assert row["decisions"][1]["b"]["threshold"] is None
    assert matrix_row([second], 2, {}, calibrations)["decisions"][0] is None


def test_row_leaves_a_gap_for_a_task_whose_images_are_gone() -> None:
    row = matrix_row([scored(1, [0, 1], [1, 1], [1.0, 2.0])], 2, {})
    assert row["metrics"]["image_auroc"]["routed"] == [None, 1.0]
    assert row["confusion"] == [[0, 0], [0, 2]]
    assert row["routing"]["per_task"]["accuracy"] == [None, 1.0]
    assert matrix_row([], 1, {})["routing"]["accuracy"] is None
