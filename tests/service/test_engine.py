"""Batches of requests before one model; the model here doubles numbers."""

import threading
import time
from typing import Any

import pytest
import torch

from moleflow_pl.errors import DataError
from moleflow_pl.service import engine as module
from moleflow_pl.service.engine import (
    DeadlineError,
    Engine,
    LoadedModel,
    QueueFullError,
    StoppingError,
)
from tests.helpers.service import wait_until

LONG = 60  # seconds that nothing here takes, however busy the machine is


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall while a batch is gathered must not divide it."""
    monkeypatch.setattr(module, "LONGEST_GATHER", LONG)


class Number:
    """An order that is decoded to a number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def prepare(self) -> int:
        if self.number == 404:
            raise DataError("no number")
        return self.number

    def finish(self, prediction: int) -> int:
        return prediction


class Doubler:
    """A predictor of numbers that notes its batches; closed, it waits.

    `begun` is set once it has its first batch, which no image can join any more.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open, self.begun = threading.Event(), threading.Event()

    def inspect(self, batch: list[int]) -> list[int]:
        self.begun.set()
        self.open.wait(LONG)
        self.batches.append(batch)
        if 13 in batch:
            raise ValueError("thirteen")
        return [2 * number for number in batch]


def engine_of(predictor: Any, **options: Any) -> Engine:
    return Engine(LoadedModel(predictor), **{"lanes": 1, **options})


def soon() -> float:
    return time.monotonic() + LONG


def submit(engine: Engine, *numbers: int) -> list:
    orders: list[Any] = [Number(number) for number in numbers]
    return engine.submit(orders, engine.model.predictor, soon())


def occupy(engine: Engine, model: Doubler) -> list:
    """Keep the lane busy with the image 0."""
    futures = submit(engine, 0)
    assert model.begun.wait(LONG)
    return futures


def test_what_waits_together_is_one_batch_and_each_gets_its_own_answer() -> None:
    model = Doubler()
    engine = engine_of(model, batch_size=4)
    first = occupy(engine, model)
    rest = [future for number in range(1, 7) for future in submit(engine, number)]
    model.open.set()
    assert [one.result(LONG) for one in first + rest] == [0, 2, 4, 6, 8, 10, 12]
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]
    engine.stop()


def test_an_image_that_comes_alone_waits_for_company_no_longer_than_told() -> None:
    model = Doubler()
    model.open.set()
    engine = engine_of(model, batch_size=2, wait=100.0 * LONG)
    futures = [*submit(engine, 1), *submit(engine, 2)]
    assert [one.result(LONG) for one in futures] == [2, 4]
    assert model.batches == [[1, 2]]
    engine.wait = 0.01
    assert submit(engine, 3)[0].result(LONG) == 6
    engine.stop()


def test_a_full_queue_takes_all_of_a_request_or_nothing() -> None:
    model = Doubler()
    engine = engine_of(model, batch_size=1, queue=3)
    occupy(engine, model)
    submit(engine, 1, 2)
    with pytest.raises(QueueFullError, match="2 images are waiting, and --queue allows 3"):
        submit(engine, 3, 4)
    submit(engine, 5)
    model.open.set()
    engine.stop()
    assert [number for batch in model.batches for number in batch] == [0, 1, 2, 5]


def test_an_image_past_its_deadline_or_given_up_costs_no_inspection() -> None:
    model = Doubler()
    engine = engine_of(model)
    occupy(engine, model)
    late = engine.submit([Number(1)], model, time.monotonic() - 1)[0]  # type: ignore[list-item, arg-type]
    given_up = submit(engine, 2)[0]
    given_up.cancel()
    model.open.set()
    with pytest.raises(DeadlineError):
        late.result(LONG)
    engine.stop()
    assert model.batches == [[0]]


def test_a_failing_batch_fails_alone() -> None:
    model = Doubler()
    model.open.set()
    engine = engine_of(model)
    with pytest.raises(ValueError, match="thirteen"):
        submit(engine, 13)[0].result(LONG)
    assert submit(engine, 1)[0].result(LONG) == 2
    assert engine.alive
    engine.stop()


def test_what_is_no_image_fails_alone_and_costs_its_batch_nothing() -> None:
    model = Doubler()
    engine = engine_of(model)
    occupy(engine, model)
    futures = submit(engine, 1, 404, 2)
    model.open.set()
    with pytest.raises(DataError, match="no number"):
        futures[1].result(LONG)
    assert [futures[0].result(LONG), futures[2].result(LONG)] == [2, 4]
    assert model.batches == [[0], [1, 2]]
    engine.stop()


def test_a_second_lane_works_while_the_first_does_and_each_has_its_share_of_the_cores() -> None:
    shares: list[int] = []

    class Counter(Doubler):
        def inspect(self, batch: list[int]) -> list[int]:
            shares.append(torch.get_num_threads())
            return super().inspect(batch)

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        model = Counter()
        engine = engine_of(model, batch_size=1, lanes=2)
        submit(engine, 0)
        wait_until(lambda: len(shares) == 1)
        submit(engine, 1)
        wait_until(lambda: len(shares) == 2)
        submit(engine, 2)  # waits
        model.open.set()
        engine.stop()
        engine = engine_of(model, lanes=2)
        submit(engine, 3)[0].result(LONG)
        engine.stop()
    finally:
        torch.set_num_threads(before)
    assert shares == [4, 2, 4, 4] or shares == [4, 2, 2, 4]
    assert sorted(model.batches) == [[0], [1], [2], [3]]


def test_a_swap_leaves_what_waits_to_the_model_it_was_prepared_for() -> None:
    old, new = Doubler(), Doubler()
    new.open.set()
    engine = engine_of(old)
    waiting = submit(engine, 0) + submit(engine, 1)
    engine.swap(LoadedModel(new))  # type: ignore[arg-type]
    later = submit(engine, 2)
    old.open.set()
    assert [one.result(LONG) for one in waiting + later] == [0, 2, 4]
    assert [number for batch in old.batches for number in batch] == [0, 1]
    assert new.batches == [[2]]
    engine.stop()


def test_a_stop_answers_what_was_taken_and_refuses_the_rest() -> None:
    model = Doubler()
    engine = engine_of(model, batch_size=1)
    taken = [*submit(engine, 1), *submit(engine, 2), *submit(engine, 3)]
    stop = threading.Thread(target=engine.stop)
    stop.start()
    wait_until(lambda: not engine.alive)
    with pytest.raises(StoppingError):
        submit(engine, 4)
    model.open.set()
    assert [one.result(LONG) for one in taken] == [2, 4, 6]
    stop.join()
