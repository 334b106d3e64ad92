from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from moleflow_pl.callbacks.progress import blocking_limits, require_batches, takes_every_batch
from moleflow_pl.errors import ConfigError


def trainer(**options: object) -> SimpleNamespace:
    free = {"fast_dev_run": False, "max_steps": -1, "limit_train_batches": 1.0}
    return SimpleNamespace(**{**free, **options})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"max_steps": 5}, {"--trainer.max_steps": "-1"}),
        ({"limit_train_batches": 0}, {"--trainer.limit_train_batches": "1.0"}),
        ({"limit_train_batches": 0.5}, {}),
        # Lightning itself sets the other limits then
        ({"fast_dev_run": True, "max_steps": 1}, {"--trainer.fast_dev_run": "false"}),
    ],
)
def test_limits_that_would_stop_the_next_fit_at_once_are_taken_back(
    options: dict, expected: dict
) -> None:
    assert blocking_limits(trainer(**options)) == expected


@pytest.mark.parametrize(
    ("batches", "loaders", "expected"),
    [
        ([3, 2], [[0] * 3, [0] * 2], True),
        ([3, 1], [[0] * 3, [0] * 2], False),
        ([3], range(3), True),
        ([0], range(3), False),
    ],
)
def test_limited_batches_are_distinguished_from_all(
    batches: list, loaders: Sequence, expected: bool
) -> None:
    assert takes_every_batch(batches, loaders) == expected


def test_limit_of_no_batch_is_refused_for_the_verb_that_it_limits() -> None:
    limited = trainer(limit_test_batches=0, limit_val_batches=0.5, limit_predict_batches=1)
    for verb in ("fit", "validate", "predict"):
        require_batches(limited, verb)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing was inspected: trainer.limit_test_batches is 0"):
        require_batches(limited, "test")  # type: ignore[arg-type]
