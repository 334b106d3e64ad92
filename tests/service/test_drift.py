import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sqlalchemy import select

from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.service import drift as module
from moleflow_pl.service.database import Audit, Database, Outbox
from moleflow_pl.service.delivery import message_of
from moleflow_pl.service.drift import DriftFollower, ask_restart, drifts
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule
from tests.helpers.service import an_inspection

CALIBRATION = 30


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "line.sqlite")


@pytest.fixture
def decisions() -> DecisionMaker:
    generator = np.random.default_rng(0)
    scores = generator.normal(1, 0.1, CALIBRATION).tolist()
    schedule = TaskSchedule()
    schedule.extend([["b"]], epochs=1)
    schedule.tasks[0].epochs_done = 1
    schedule.tasks[0].calibration = Calibration(
        scores, scores, scores, [1.0] * CALIBRATION, [2.0] * CALIBRATION,
        brightness=generator.normal(0.5, 0.01, CALIBRATION).tolist(),
    )  # fmt: skip
    return DecisionMaker(schedule)


def record(database: Database, count: int, brightness: float, product: str = "b") -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(brightness, 0.01, count).tolist()
    rows = [
        an_inspection(product=product, brightness=value, novelty_ratio=None) for value in values
    ]
    with database.writing() as session:
        session.add_all(rows)


def follower(database: Database, decisions: DecisionMaker, digest: str = "x") -> DriftFollower:
    return DriftFollower(database, lambda: (decisions, digest))


def test_drift_of_the_record_is_kept_for_all_processes_and_noted(
    database: Database, decisions: DecisionMaker
) -> None:
    assert drifts(database) == {}
    record(database, 60, 0.5)
    follower(database, decisions).look()
    assert (drifts(database)["b"]["state"], drifts(database)["b"]["images"]) == ("steady", 60)
    record(database, 40, 0.3)
    follower(database, decisions).look()  # another process, which goes on
    found = drifts(database)["b"]
    assert (found["state"], found["images"]) == ("drift", 100)
    assert found["reasons"][0].startswith("brightness has fallen since image ")
    with database.reading() as session:
        noted = session.scalars(select(Audit).where(Audit.action == "drift")).all()
    assert [row.detail["state"] for row in noted] == ["warning", "drift"]


def test_every_inspection_is_taken_once(database: Database, decisions: DecisionMaker) -> None:
    record(database, 5, 0.5)
    one = follower(database, decisions)
    for _ in range(3):
        one.look()
    assert drifts(database)["b"]["images"] == 5


def test_what_is_still_being_written_is_waited_for(
    database: Database, decisions: DecisionMaker
) -> None:
    with database.writing() as session:
        session.add(an_inspection(time=time.time()))
    follower(database, decisions).look()
    assert drifts(database) == {}


def test_inspection_with_a_lower_number_and_a_later_time_is_not_skipped(
    database: Database, decisions: DecisionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock.now))
    with database.writing() as session:  # 2 is of a form, whose first image was done before 1
        session.add_all(an_inspection(time=value) for value in (9.0, 9.95, 9.1, 9.2))
    one = follower(database, decisions)
    for clock.now, images in ((10.9, 1), (10.94, 1), (11.0, 4), (12.0, 4)):
        one.look()
        assert drifts(database)["b"]["images"] == images


def test_clock_that_is_hours_ahead_stops_nothing(
    database: Database, decisions: DecisionMaker
) -> None:
    with database.writing() as session:
        session.add_all([an_inspection(time=time.time() + 7200), an_inspection(time=1.0)])
    follower(database, decisions).look()
    assert drifts(database)["b"]["images"] == 2


def test_product_that_the_model_does_not_know_is_left_out(
    database: Database, decisions: DecisionMaker
) -> None:
    record(database, 3, 0.5, product="gone")
    follower(database, decisions).look()
    assert drifts(database) == {}


def test_chart_starts_anew_on_request(database: Database, decisions: DecisionMaker) -> None:
    record(database, 40, 0.3)
    one = follower(database, decisions)
    one.look()
    assert drifts(database)["b"]["state"] == "drift"
    ask_restart(database, "b", "Ann")
    one.look()
    assert drifts(database) == {}
    record(database, 40, 0.5)
    one.look()
    assert (drifts(database)["b"]["state"], drifts(database)["b"]["images"]) == ("steady", 40)


def test_another_model_goes_on_with_the_charts_of_products_that_are_the_same(
    database: Database, decisions: DecisionMaker
) -> None:
    record(database, 20, 0.5)
    follower(database, decisions).look()
    record(database, 20, 0.5)
    follower(database, decisions, digest="y").look()
    assert drifts(database)["b"]["images"] == 40


def test_each_sink_is_told_of_each_change_of_state(
    database: Database, decisions: DecisionMaker
) -> None:
    record(database, 60, 0.3)
    one = DriftFollower(database, lambda: (decisions, "x"), ["csv:a", "webhook:b"])
    one.look()
    one.look()
    with database.reading() as session:
        messages = [(row.sink, message_of(row)) for row in session.scalars(select(Outbox))]
    told = [(sink, message["event"], message["state"]) for sink, message in messages]
    states = [(sink, "drift", state) for state in ("warning", "drift") for sink in one.sinks]
    assert told == states
    assert "brightness has fallen" in messages[-1][1]["reasons"][0]


def test_each_sink_receives_that_a_product_is_steady_again_without_a_new_image(
    database: Database, decisions: DecisionMaker
) -> None:
    record(database, 60, 0.3)
    one = DriftFollower(database, lambda: (decisions, "x"), ["csv:a"])
    one.look()
    ask_restart(database, "b", "Ann")
    one.look()
    one.look()
    with database.reading() as session:
        messages = [message_of(row) for row in session.scalars(select(Outbox))]
    states = [(one["product"], one["state"]) for one in messages]
    assert states == [("b", "warning"), ("b", "drift"), ("b", "steady")]
    with database.reading() as session:
        noted = session.scalars(select(Audit).where(Audit.action == "drift")).all()
    assert noted[-1].detail == {"product": "b", "state": "steady", "reasons": []}
