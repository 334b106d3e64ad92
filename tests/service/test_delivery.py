"""What is in the outbox is delivered in order, however long the receiver is away."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from moleflow_pl.service import delivery as module
from moleflow_pl.service import health
from moleflow_pl.service.database import Database, Outbox
from moleflow_pl.service.delivery import Delivery
from moleflow_pl.service.health import Background, attend
from moleflow_pl.service.sinks.base import RefusedError, Sink
from moleflow_pl.service.sinks.webhook import WebhookSink
from tests.helpers.hook import web_hook
from tests.helpers.service import an_inspection, during


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


def test_delivery_goes_on_after_errors_of_database_and_receiver_each_message_once_in_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{i}.png" for i in range(2 * module.AT_ONCE + 10)]
    for place in (module, health):
        monkeypatch.setattr(place, "wait_after", lambda failures: 0.001)
    with web_hook(lambda number: 503 if number in (3, 4, 120) else 204) as hook:
        sink = WebhookSink(hook.url)
        post(database, names, sink.health.name)
        delivery = Delivery(database, sink)
        calls = iter(range(1, 1000))

        def failing(session: Callable) -> Callable:
            def locked() -> object:
                if next(calls) in (1, 4, 5, 8):
                    raise OperationalError("", {}, Exception("database is locked"))
                return session()

            return locked

        reading = SimpleNamespace(
            reading=failing(database.reading), writing=failing(database.writing)
        )
        delivery.database = reading  # type: ignore[assignment]
        attending = attend(database, Background(sink.health, "sink", delivery.run))
        asyncio.run(during(attending, lambda: len(hook.taken) >= len(names) and sink.health.ok))
    assert [message["image"] for message in hook.taken] == names
    with database.reading() as session:
        waiting = session.scalars(select(Outbox).where(Outbox.delivered.is_(None))).all()
    assert waiting == []
