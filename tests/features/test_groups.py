import pytest
import torch

from moleflow_pl.errors import ConfigError
from moleflow_pl.features.groups import FeatureGroups, layer_groups


def test_groups_of_a_transformer_are_averaged_for_the_flow_and_those_of_a_cnn_joined() -> None:
    features = torch.arange(6.0)
    assert FeatureGroups((2, 2, 2), seen=2).joined(features).tolist() == [1.0, 2.0]
    assert FeatureGroups((1, 2, 3), seen=2, averaged=False).joined(features).tolist() == [0, 1, 2]
    assert FeatureGroups((6,), seen=1).joined(features) is features


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("none", [3.0, 4.0]), ("l2", [0.6, 0.8]), ("layer_norm", [-1.0, 1.0])],
)
def test_each_group_is_normalised_by_itself(norm: str, expected: list[float]) -> None:
    groups = FeatureGroups((2, 2), seen=1, norm=norm)  # type: ignore[arg-type]
    first, second = groups.split(torch.tensor([3.0, 4.0, 300.0, 400.0]))
    scale = 100 if norm == "none" else 1
    torch.testing.assert_close(first, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second, scale * torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [[], [[1], 2], [[]], 3, None, "12"])
def test_layers_that_are_no_groups_are_refused(layers: object) -> None:
    with pytest.raises(ConfigError, match="layers must be numbers, or groups of numbers"):
        layer_groups(layers)
