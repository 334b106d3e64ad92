"""`moleflow serve` in a fresh process."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.commands import environment

START_SECONDS = 120


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        return int(place.getsockname()[1])


class Server:
    """A service in a process of its own.

    Attributes:
        url: Where it answers.
        seconds: From the start of the process to that.
    """

    def __init__(self, run: Path, *options: object, **env: str) -> None:
        command = [sys.executable, "-m", "moleflow_pl.cli.main", "serve", str(run), "--port=0"]
        began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, *map(str, options)],
            env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(START_SECONDS), self.output
        self.seconds = time.monotonic() - began
        found = re.search(r"serving .* at (http://\S+)", self.output)
        assert found, self.output
        self.url = found[1]

    @property
    def output(self) -> str:
        """What it has printed."""
        return "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("serving"):
                self._ready.set()
        self._ready.set()

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal to the process alone; its exit code."""
        self.process.send_signal(signum)
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        """Kill it and all its processes, if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def serving(run: Path, *options: object, **env: str) -> Iterator[Server]:
    """A service that is gone after the block."""
    server = Server(run, *options, **env)
    try:
        yield server
    finally:
        server.kill()
