"""A receiver of webhooks."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@dataclass
class Hook:
    """What a receiver has taken.

    Attributes:
        url: Its address.
        taken: The messages that it has taken, in order.
        logins: Their authorization headers.
        asked: Number of requests.
    """

    url: str
    taken: list[dict[str, Any]] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)
    asked: int = 0


@contextmanager
def web_hook(status: Callable[[int], int] = lambda number: 204, port: int = 0) -> Iterator[Hook]:
    """A real server.

    Args:
        status: How it answers a request, by the number of that, from 1.
        port: Where it listens; by default any that is free.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            hook.asked += 1
            answer = status(hook.asked)
            if answer == 204:
                hook.taken.append(message)
                hook.logins.append(self.headers.get("authorization"))
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        hook = Hook(f"http://127.0.0.1:{server.server_port}/line")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hook
        finally:
            server.shutdown()
