import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from moleflow_pl import ContinualDataModule, MoLESpatialAwareNF, Predictor, errors
from moleflow_pl.cli import main as cli
from moleflow_pl.errors import MoLEFlowError, StoppedError
from moleflow_pl.report.comparison import read_summary

# one that stopped has an exit code of its own: `tests/cli/test_stopping.py`
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MoLEFlowError) and kind is not StoppedError
]
MESSAGE = "rank has to be at least 1, got 0"


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let `moleflow report` fail."""

    def fail(args: list[str]) -> None:
        raise error

    monkeypatch.setattr("moleflow_pl.cli.report.main", fail)
    cli.main(["report"])


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_the_project_ends_the_command_in_its_message(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as error:
        failing(monkeypatch, kind(MESSAGE))
    assert error.value.code == f"moleflow: {MESSAGE}"  # which Python shows, and exits by 1


def test_error_of_a_loaders_process_is_shown_without_that_process_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapped = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        f'last):\n  File "x.py", line 1, in y\nmoleflow_pl.errors.DataError: {MESSAGE}\n'
    )
    with pytest.raises(SystemExit) as error:
        failing(monkeypatch, errors.DataError(wrapped))
    assert error.value.code == f"moleflow: {MESSAGE}"


@pytest.mark.parametrize("error", [ValueError(MESSAGE), KeyError("x"), OSError("x")])
def test_error_that_is_a_defect_of_the_code_keeps_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(error)):
        failing(monkeypatch, error)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: MoLESpatialAwareNF(8, lora_rank=0), "lora_rank"),
        (lambda: ContinualDataModule("nowhere", ["a"], layout="none"), "layout"),
        (lambda: Predictor.load("nowhere.ckpt"), "nowhere.ckpt"),
        (lambda: read_summary(Path("nowhere")), "nowhere"),
    ],
)
def test_callers_in_python_can_catch_it_as_a_value_error(
    call: Callable[[], object], named: str
) -> None:
    with pytest.raises(ValueError, match=named) as error:
        call()
    assert isinstance(error.value, MoLEFlowError)
