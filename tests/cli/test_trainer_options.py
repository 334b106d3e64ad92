from types import SimpleNamespace

import pytest

from moleflow_pl.cli.trainer_options import check_options, check_seed, refused_value
from moleflow_pl.errors import ConfigError

DEFAULTS = {
    "default_root_dir": "runs/mine", "enable_checkpointing": None, "barebones": False,
    "max_epochs": -1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 10,
    "val_check_interval": None, "callbacks": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"val_check_interval": 0.5},
        {"val_check_interval": 100, "check_val_every_n_epoch": None},
        {"accumulate_grad_batches": 3},
    ],
)
def test_options_that_work_are_taken(options: dict) -> None:
    check_options(SimpleNamespace(**{**DEFAULTS, **options}))


@pytest.mark.parametrize("seed", [0, 2**32 - 1, True, False, None])
def test_a_seed_of_numpy_is_taken(seed: int | None) -> None:
    check_seed(seed)


@pytest.mark.parametrize("seed", [-5, 2**32])
def test_another_seed_is_refused_in_words(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed_everything {seed}: it must be 0 to 4294967295"):
        check_seed(seed)


@pytest.mark.parametrize(
    "options",
    [
        {"default_root_dir": None},
        {"val_check_interval": 100},
        {"accumulate_grad_batches": -1},
        {"check_val_every_n_epoch": 0},
        {"max_epochs": 3},
        {"barebones": True},
        {"callbacks": SimpleNamespace(class_path="lightning.pytorch.callbacks.Timer")},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_that_would_fail_later_is_refused_by_its_name(options: dict) -> None:
    with pytest.raises(ConfigError, match=f"^trainer.{next(iter(options))}") as error:
        check_options(SimpleNamespace(**{**DEFAULTS, **options}))
    assert len(str(error.value).splitlines()) == 1


def test_only_a_refused_value_has_a_reason() -> None:
    assert refused_value(ValueError("no number")) is None
    assert refused_value(TypeError("Errors:\n  - x")) is None
