from dataclasses import replace

import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.model.build import build_inspector
from moleflow_pl.model.restore import arguments_of
from tests.helpers.models import TINY_MODEL


def test_model_owns_what_the_same_arguments_build() -> None:
    torch.manual_seed(0)
    owned = MoLEFlow(**TINY_MODEL, score="norm").inspector
    chosen = arguments_of(owned)
    torch.manual_seed(0)
    built = build_inspector(chosen)
    assert all(torch.equal(owned.state_dict()[k], t) for k, t in built.state_dict().items())
    assert arguments_of(built) == chosen


@pytest.mark.parametrize("argument", ["score", "router", "prototype", "image_score"])
def test_unknown_name_is_refused_before_the_backbone_is_built(argument: str) -> None:
    arguments = arguments_of(MoLEFlow(**TINY_MODEL).inspector)
    wrong = replace(arguments, backbone="no_such_backbone", **{argument: "nomr"})
    with pytest.raises(ConfigError, match=f"{argument} has to be one of .*got 'nomr'"):
        build_inspector(wrong)
