"""A webhook, against a real server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from moleflow_pl.errors import ConfigError
from moleflow_pl.service.sinks.base import RefusedError
from moleflow_pl.service.sinks.webhook import WebhookSink


class Hook(BaseHTTPRequestHandler):
    """Notes messages, and answers as it is told."""

    status = 204
    taken: list = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append((json.loads(body), self.headers.get("authorization")))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Hook.taken, Hook.status = [], 204
        yield f"http://me:pass@127.0.0.1:{server.server_port}/line"
        server.shutdown()


def test_a_message_is_posted_with_the_login(hook: str) -> None:
    sink = WebhookSink(hook)
    sink.deliver({"id": 1})
    sink.close()
    assert Hook.taken == [({"id": 1}, "Basic bWU6cGFzcw==")]


@pytest.mark.parametrize(
    ("status", "error"),
    [(422, RefusedError), (400, RefusedError), (401, OSError), (404, OSError), (503, OSError),
     (302, OSError)],
)  # fmt: skip
def test_only_a_refusal_of_the_message_itself_ends_its_tries(
    hook: str, status: int, error: type[Exception]
) -> None:
    Hook.status = status
    with pytest.raises(error, match=str(status)):
        WebhookSink(hook).deliver({})


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match="webhook:https://HOST/PATH"):
        WebhookSink("ftp://x")
