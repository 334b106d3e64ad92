import pytest

from moleflow_pl._internal.validation import require_int, require_number, require_sides
from moleflow_pl.errors import ConfigError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [1, 2, 9])
def test_whole_number_within_its_limits_is_taken(value: int) -> None:
    require_int("rank", value, 1, 9)


@pytest.mark.parametrize("value", [0, 10, -3, 10**400, 2.0, "2", None, True, NAN, [2]])
def test_other_values_are_refused_as_whole_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match="rank must be an integer from 1 to 9, got "):
        require_int("rank", value, 1, 9)


@pytest.mark.parametrize("value", [0, 0.5, 1, 1.0])
def test_number_within_its_limits_is_taken(value: float) -> None:
    require_number("share", value, 0, 1)


@pytest.mark.parametrize("value", [-1e-9, 1.01, 10**400, "0.5", None, False, NAN, INF, -INF, []])
def test_other_values_are_refused_as_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match="share must be a number of at least 0, up to 1, got "):
        require_number("share", value, 0, 1)


def test_lower_limit_may_be_left_out() -> None:
    require_number("share", 1e-9, 0, 1, above=True)
    with pytest.raises(ConfigError, match="a number above 0, up to 1, got 0"):
        require_number("share", 0, 0, 1, above=True)


@pytest.mark.parametrize("value", [3, [3, 4], (1, 9)])
def test_one_side_or_two_are_taken(value: object) -> None:
    require_sides("grid", value, 1, 9)


@pytest.mark.parametrize("value", [[3], [1, 2, 3], [], 0, [3, 0], "3", [3, 2.5], None])
def test_other_sides_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="grid.* must be "):
        require_sides("grid", value, 1, 9)
