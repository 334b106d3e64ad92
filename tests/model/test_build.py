from inspect import signature

import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.model.build import STRUCTURE, build_inspector
from tests.helpers.models import TINY_MODEL


def arguments() -> dict:
    names = signature(build_inspector).parameters
    hparams = MoLEFlow(**TINY_MODEL, score="norm").hparams
    return {name: hparams[name] for name in names}


def test_every_argument_is_one_of_the_models() -> None:
    names = set(signature(build_inspector).parameters)
    training = {"self", "loss", "patch_fraction", "optimizer"}
    assert names == set(signature(MoLEFlow.__init__).parameters) - training
    assert set(STRUCTURE) < names


def test_model_owns_what_the_same_arguments_build() -> None:
    chosen = arguments()
    torch.manual_seed(0)
    built = build_inspector(**chosen)
    torch.manual_seed(0)
    owned = MoLEFlow(**TINY_MODEL, score="norm").inspector
    assert all(torch.equal(owned.state_dict()[k], t) for k, t in built.state_dict().items())
    assert built.arguments == owned.arguments == chosen


@pytest.mark.parametrize("argument", ["score", "router", "prototype", "image_score"])
def test_unknown_name_is_refused_before_the_backbone_is_built(argument: str) -> None:
    wrong = {**arguments(), "backbone": "no_such_backbone", argument: "nomr"}
    with pytest.raises(ConfigError, match=f"{argument} has to be one of .*got 'nomr'"):
        build_inspector(**wrong)
