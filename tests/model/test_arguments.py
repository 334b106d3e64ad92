from dataclasses import fields
from inspect import signature

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.model.arguments import STRUCTURE, ModelArguments
from tests.helpers.models import TINY_MODEL

NAMES = [field.name for field in fields(ModelArguments)]


def arguments(**changes: object) -> ModelArguments:
    """Those of a small model, some of them replaced."""
    stored = MoLEFlow(**TINY_MODEL).hparams
    return ModelArguments(**{**{name: stored[name] for name in NAMES}, **changes})


def test_every_argument_is_one_of_the_models() -> None:
    training = {"self", "loss", "patch_fraction", "optimizer"}
    assert set(NAMES) == set(signature(MoLEFlow.__init__).parameters) - training
    assert set(STRUCTURE) < set(NAMES)


def test_structure_holds_what_tensors_depend_on() -> None:
    structure = arguments(lora_rank=3, bank_mb=1.0).structure()
    assert structure["lora_rank"] == 3
    assert "bank_mb" not in structure


@pytest.mark.parametrize(("name", "value"), [("bank_mb", 0), ("image_quantile", 1.5)])
def test_a_number_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        arguments(**{name: value})
