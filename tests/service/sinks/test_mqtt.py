"""MQTT, against a real mosquitto."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from moleflow_pl.errors import ConfigError
from moleflow_pl.service.sinks.mqtt import MqttSink
from tests.helpers.service import wait_until
from tests.helpers.serving import free_port

# Debian keeps it outside of a user's path
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")


def broker(port: int) -> subprocess.Popen:
    assert MOSQUITTO is not None
    process = subprocess.Popen([MOSQUITTO, "-p", str(port)], stderr=subprocess.DEVNULL)
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return process
        time.sleep(0.05)
    raise AssertionError("mosquitto does not start")


class Broker:
    """A mosquitto that stops and starts."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self.process = broker(self.port)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def mosquitto() -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("there is no mosquitto")
    running = Broker()
    yield running
    running.stop()


def fails(sink: MqttSink) -> bool:
    """Whether a message is not taken."""
    try:
        sink.deliver({"id": "lost"})
    except (OSError, RuntimeError):
        return True
    return False


def test_messages_arrive_in_order_and_again_after_the_broker_was_away(mosquitto: Broker) -> None:
    port = mosquitto.port
    got: list[dict] = []
    ready: list[int] = []
    listener = mqtt.Client(CallbackAPIVersion.VERSION2)
    listener.on_message = lambda client, data, message: got.append(json.loads(message.payload))
    listener.on_subscribe = lambda *args: ready.append(1)
    listener.on_connect = lambda *args: listener.subscribe("factory/line 1", qos=1)
    listener.reconnect_delay_set(1, 1)
    listener.connect("127.0.0.1", port)
    listener.loop_start()
    sink = MqttSink(f"mqtt://127.0.0.1:{port}/factory/line%201")
    try:
        wait_until(lambda: ready)
        for number in range(3):
            sink.deliver({"id": number})
        wait_until(lambda: len(got) == 3)  # a broker that is killed forgets them
        mosquitto.stop()
        wait_until(lambda: fails(sink))
        mosquitto.start()
        wait_until(lambda: len(ready) == 2, 30)  # the listener is back
        sink.deliver({"id": 3})
        wait_until(lambda: len(got) == 4)
    finally:
        listener.loop_stop()
        sink.close()
    assert [message["id"] for message in got] == [0, 1, 2, 3]


def test_a_broker_that_is_not_there_is_an_error_and_so_tried_again() -> None:
    with pytest.raises(OSError, match="refused"):
        MqttSink(f"mqtt://127.0.0.1:{free_port()}/line").deliver({})


@pytest.mark.parametrize("address", ["host/topic", "mqtt://host", "http://host/topic", "mqtt:///x"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match="mqtt:mqtt://HOST/TOPIC"):
        MqttSink(address)
