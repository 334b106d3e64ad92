"""A receiver of webhooks."""

import json
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@contextmanager
def web_hook(failures: Collection[int] = ()) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real server: its address, and the messages that it has taken.

    Args:
        failures: Numbers of the requests that it answers with 503, from 1.
    """
    taken: list[dict[str, Any]] = []
    asked = iter(range(1, 1_000_000))

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            failed = next(asked) in failures
            if not failed:
                taken.append(message)
            self.send_response(503 if failed else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/line", taken
        finally:
            server.shutdown()
