"""What is in the outbox is delivered in order, however long the receiver is away."""

from pathlib import Path
from typing import Any

import pytest

from moleflow_pl.service import delivery as module
from moleflow_pl.service.database import Database, Outbox
from moleflow_pl.service.delivery import Delivery
from moleflow_pl.service.sinks.base import RefusedError, Sink
from tests.helpers.service import an_inspection


class Receiver(Sink):
    """Takes messages while it is up."""

    name = "receiver"

    def __init__(self, address: str = "x") -> None:
        super().__init__(address)
        self.up, self.taken = True, list[dict[str, Any]]()

    def deliver(self, message: dict[str, Any]) -> None:
        if not self.up:
            raise OSError("nobody there")
        if message.get("image") == "poison.png":
            raise RefusedError("refused with 422")
        self.taken.append(message)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "line.sqlite")


def post(database: Database, names: list[str], sink: str = "receiver:x") -> None:
    with database.writing() as session:
        for name in names:
            session.add(Outbox(sink=sink, inspection=an_inspection(image_name=name)))


def test_a_thousand_messages_wait_for_a_receiver_and_arrive_in_order(database: Database) -> None:
    names = [f"{i}.png" for i in range(1000)]
    post(database, names)
    receiver = Receiver()
    receiver.up = False
    delivery = Delivery(database, receiver)
    assert delivery.deliver_some() < delivery.deliver_some()  # it waits longer and longer
    assert (receiver.health.ok, receiver.taken) == (False, [])
    receiver.up = True
    while delivery.deliver_some() == 0:
        pass
    assert [message["image"] for message in receiver.taken] == names
    assert receiver.taken[0].items() >= {"event": "inspection", "id": 1, "product": "b"}.items()
    assert receiver.health.ok
    with database.reading() as session:
        first = session.get(Outbox, 1)
        assert (first.tries, first.delivered is not None) == (3, True)


def test_what_came_before_a_failure_is_not_sent_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(database, ["a", "b", "c"])
    receiver = Receiver()
    delivery = Delivery(database, receiver)
    take = receiver.deliver

    def fails_at_b(message: dict[str, Any]) -> None:
        if message["image"] == "b":
            raise OSError("gone")
        take(message)

    monkeypatch.setattr(receiver, "deliver", fails_at_b)
    delivery.deliver_some()
    monkeypatch.undo()
    delivery.deliver_some()
    assert [message["image"] for message in receiver.taken] == ["a", "b", "c"]


def test_a_message_that_is_refused_is_noted_and_holds_up_nobody(database: Database) -> None:
    post(database, ["a", "poison.png", "c"])
    receiver = Receiver()
    Delivery(database, receiver).deliver_some()
    assert [message["image"] for message in receiver.taken] == ["a", "c"]
    with database.reading() as session:
        assert session.get(Outbox, 2).error == "refused with 422"


def test_each_sink_gets_its_own_and_events_that_are_no_inspection(database: Database) -> None:
    post(database, ["a"], "other:y")
    with database.writing() as session:
        session.add(Outbox(sink="receiver:x", payload={"event": "drift"}))
    receiver = Receiver()
    Delivery(database, receiver).deliver_some()
    assert receiver.taken == [{"event": "drift"}]


def test_delivered_rows_do_not_stay_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", -1.0)
    post(database, ["a"])
    Delivery(database, Receiver()).deliver_some()
    with database.reading() as session:
        assert session.get(Outbox, 1) is None
