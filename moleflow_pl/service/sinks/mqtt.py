"""MQTT: a message on a topic for each inspection, acknowledged by the broker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from moleflow_pl.errors import ConfigError
from moleflow_pl.service.sinks.base import SINKS, Sink

if TYPE_CHECKING:
    import paho.mqtt.client as mqtt

SECONDS = 10.0  # for the broker's acknowledgement
AT_LEAST_ONCE = 1
PORTS = {"mqtt": 1883, "mqtts": 8883}


@SINKS.add("mqtt")
class MqttSink(Sink):
    """Publishes to `mqtt:mqtt://user:password@host:1883/topic`; `mqtts` is encrypted."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        parts = urlsplit(address)
        self.topic = unquote(parts.path.lstrip("/"))
        if parts.scheme not in PORTS or not parts.hostname or not self.topic:
            raise ConfigError(f"--sink mqtt:{address}: write mqtt:mqtt://HOST/TOPIC")
        self._place = (parts.hostname, parts.port or PORTS[parts.scheme])
        self._login = (unquote(parts.username or ""), unquote(parts.password or ""))
        self._encrypted = parts.scheme == "mqtts"
        self._client: mqtt.Client | None = None

    def deliver(self, message: dict[str, Any]) -> None:
        client = self._connected()
        try:
            sent = client.publish(self.topic, json.dumps(message), qos=AT_LEAST_ONCE)
            sent.wait_for_publish(SECONDS)
            if not sent.is_published():
                raise OSError("the broker did not acknowledge the message")
        except Exception:
            self.close()  # otherwise the client would send the message again
            raise

    def _connected(self) -> mqtt.Client:
        if self._client is None:
            # slow to import: for those alone who use it
            import paho.mqtt.client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion

            client = mqtt.Client(CallbackAPIVersion.VERSION2)
            if self._login[0]:
                client.username_pw_set(*self._login)
            if self._encrypted:
                client.tls_set()
            client.connect(*self._place)
            client.loop_start()
            self._client = client
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
