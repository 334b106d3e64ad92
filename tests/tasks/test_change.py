import json
import math

import numpy as np
import pytest

from moleflow_pl.tasks.change import FIRST, ChangeTest

CALIBRATION = 30
STEADY = 10_000
PER_ALARM = 1_000_000


def highest(test: ChangeTest, values: np.ndarray) -> float:
    """The highest evidence while numbers come."""
    return max(test.add(value, number) for number, value in enumerate(values.tolist()))


@pytest.mark.parametrize(
    "distribution",
    [
        "lognormal",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("normal", "two_values")),
    ],
)
def test_ten_thousand_steady_numbers_after_a_calibration_set_of_thirty_raise_no_alarm(
    distribution: str,
) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=CALIBRATION + STEADY)
    if distribution == "lognormal":
        values = np.exp(2 * values)
    if distribution == "two_values":
        values = (values > 0).astype(float)
    test = ChangeTest(values[:CALIBRATION])
    assert highest(test, values[CALIBRATION:]) < math.log(PER_ALARM)


def test_share_of_false_alarms_is_within_what_is_stated_for_any_calibration_set() -> None:
    """Of n numbers, c is exceeded with a probability of n / c at most."""
    generator, limit, count, runs = np.random.default_rng(0), 200, 50, 80
    alarms = 0
    for _ in range(runs):
        values = generator.exponential(size=20 + count)
        alarms += highest(ChangeTest(values[:20]), values[20:]) >= math.log(limit)
    assert alarms <= runs * count / limit


def test_ranks_by_the_calibration_set_alone_would_break_what_is_stated() -> None:
    """Why each number joins the reference: that of a few images differs from the line's."""
    generator, alarms = np.random.default_rng(0), 0
    for _ in range(10):
        values = generator.normal(size=20 + 400)
        test = ChangeTest(values[:20])
        counts, total, seen = list(test._counts), test._total, 0.0
        for number, value in enumerate(values[20:].tolist()):
            test._counts, test._total = list(counts), total
            seen = max(seen, test.add(value, number))
        alarms += seen > math.log(PER_ALARM)
    assert alarms >= 2


@pytest.mark.parametrize(
    ("change", "direction", "most"),
    [
        (lambda x: x + 4, "risen", 12),
        (lambda x: x - 2, "fallen", 40),
        (lambda x: 8 * x, "spread", 60),
    ],
)
def test_change_is_seen_and_told_with_its_direction_and_beginning(
    change: object, direction: str, most: int
) -> None:
    generator = np.random.default_rng(0)
    test = ChangeTest(generator.normal(size=CALIBRATION))
    assert highest(test, generator.normal(size=200)) < math.log(PER_ALARM)
    for number in range(200, 200 + most):
        evidence = test.add(float(change(generator.normal())), number)  # type: ignore[operator]
        if evidence > math.log(PER_ALARM):
            break
    assert evidence > math.log(PER_ALARM)
    assert test.change[0] == direction
    assert 180 <= test.change[1] <= number


def test_change_from_the_first_image_on_is_seen_against_few_calibration_images() -> None:
    generator = np.random.default_rng(0)
    for count, most in ((15, 25), (30, 12)):
        test = ChangeTest(generator.normal(size=count))
        assert highest(test, generator.normal(20, size=most)) > math.log(4 * PER_ALARM)


def test_without_calibration_images_the_first_numbers_are_the_reference() -> None:
    generator = np.random.default_rng(0)
    test = ChangeTest(directions=("risen",))
    for value in generator.normal(size=FIRST):
        assert test.add(float(value), 0) == 0
    assert test.seen == 0
    assert highest(test, generator.normal(9, size=40)) > math.log(PER_ALARM)


def test_numbers_that_are_all_alike_are_steady_and_another_one_is_not() -> None:
    test = ChangeTest([0.5] * CALIBRATION)
    assert highest(test, np.full(300, 0.5)) < math.log(PER_ALARM)
    assert highest(test, np.full(60, 0.51)) > math.log(PER_ALARM)


def test_saved_test_goes_on_as_if_it_had_never_stopped() -> None:
    values = np.random.default_rng(0).normal(size=90).tolist()
    for reference in ([], values[:20]):  # also while the reference is still gathered
        straight, stopped = ChangeTest(reference), ChangeTest(reference)
        for number, value in enumerate(values[20:]):
            stopped = ChangeTest.from_state(json.loads(json.dumps(stopped.state())))
            assert straight.add(value, number) == stopped.add(value, number)
        assert straight.state() == stopped.state()
