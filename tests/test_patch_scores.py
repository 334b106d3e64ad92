import pytest

from moleflow_pl.errors import ConfigError
from moleflow_pl.patch_scores import SCORES


def test_nats_and_distances_are_not_added() -> None:
    with pytest.raises(ConfigError, match="set own_image to 0"):
        SCORES["nll"](0.3)


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan"), "much"])
def test_weight_of_the_own_image_is_a_number(weight: float) -> None:
    with pytest.raises(ConfigError, match="own_image has to be a number of at least 0, up to 10"):
        SCORES["norm"](weight)
