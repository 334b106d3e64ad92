"""A webhook: a POST of JSON for each message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moleflow_pl.errors import ConfigError
from moleflow_pl.service.sinks.base import SINKS, RefusedError, Sink

if TYPE_CHECKING:
    import httpx

SECONDS = 10.0  # for an answer
# statuses with which a receiver will never accept this message
REFUSALS = (400, 413, 415, 422)


@SINKS.add("webhook")
class WebhookSink(Sink):
    """Sends messages to an address, such as `webhook:https://user:password@host/line`."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"--sink webhook:{address}: write webhook:https://HOST/PATH")
        self._client: httpx.Client | None = None

    def deliver(self, message: dict[str, Any]) -> None:
        if self._client is None:
            import httpx  # slow to import: for those alone who use it

            self._client = httpx.Client(timeout=SECONDS)
        answer = self._client.post(self.address, json=message)
        if answer.status_code in REFUSALS:
            raise RefusedError(f"refused with {answer.status_code}")
        if not answer.is_success:
            raise OSError(f"answered {answer.status_code}")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
