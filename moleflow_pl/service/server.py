"""The server: one process, or several that share a socket and a database."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from moleflow_pl.errors import ConfigError, OutputError
from moleflow_pl.service.app import SETTINGS, make_app
from moleflow_pl.service.applications import begin
from moleflow_pl.service.metrics import SEVERAL, forget
from moleflow_pl.service.settings import Settings
from moleflow_pl.service.state import Service

logger = logging.getLogger(__name__)

BACKLOG = 2048
MOST_CONNECTIONS = 1024  # beyond which clients get 503
IDLE_SECONDS = 30
GRACE_SECONDS = 5  # beyond the deadline of a request
START_SECONDS = 600
# without a sign of life, a process of `--workers` is replaced; on a busy machine imports take long
WORKER_SECONDS = 60


def serve(settings: Settings) -> None:
    """Serve until a signal ends it; the signal is raised again at the end.

    Raises:
        ConfigError: the port is taken, or a setting cannot be used.
        OutputError: the folder or the database cannot be written, or a worker does not start.
    """
    with listening(settings.host, settings.port) as place:
        threading.Thread(target=announce, args=(place, settings), daemon=True).start()
        if settings.workers == 1:
            config = configure(make_app(Service(settings)), settings)
            uvicorn.Server(config).run([place])
        else:
            run_workers(settings, place)


def configure(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """The configuration of uvicorn."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(settings.deadline) + GRACE_SECONDS,
        timeout_worker_healthcheck=WORKER_SECONDS,
    )


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that clients can reach at once; they wait until the model is loaded.

    Raises:
        ConfigError: the address is in use, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        place = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # connections inherit it; asyncio sets it for its own sockets alone. Without it the end of
        # each response waits 40 ms for an acknowledgement
        place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port"
        ) from error
    with place:
        place.set_inheritable(True)
        yield place


def announce(place: socket.socket, settings: Settings) -> None:
    """Log the address of the service once it answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    with suppress(OSError, http.client.HTTPException):
        port = place.getsockname()[1]  # fails once the service has ended
        connection = http.client.HTTPConnection(host, port, timeout=START_SECONDS)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        logger.info("serving %s at http://%s:%d", settings.run.root, shown, port)


class Workers(Multiprocess):
    """Uvicorn's supervisor, which restarts dead processes.

    It records the signal that ended it, and leaves dead processes out of the metrics.
    """

    ended_by: int | None = None
    _known: frozenset[int] = frozenset()  # processes

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        now = frozenset(process.pid for process in self.processes if process.pid is not None)
        for process in self._known - now:
            forget(process)
        self._known = now

    def handle_int(self) -> None:
        self.ended_by = signal.SIGINT
        super().handle_int()

    def handle_term(self) -> None:
        self.ended_by = signal.SIGTERM
        super().handle_term()


def run_workers(settings: Settings, place: socket.socket) -> None:
    """Serve with several processes, each with its own copy of the model.

    Raises:
        OutputError: the processes do not start.
    """
    database = settings.open_database()  # creates the tables before the processes start
    begin(database, settings.model)
    database.close()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="moleflow-metrics-") as counts:
        os.environ |= {SETTINGS: settings.to_json(), SEVERAL: counts}
        workers = Workers(configure("moleflow_pl.service.server:app_of_worker", settings), [place])
        try:
            workers.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            del os.environ[SETTINGS], os.environ[SEVERAL]
    if workers.ended_by is None:
        raise OutputError("the processes of --workers do not start: try --workers 1")
    signal.raise_signal(workers.ended_by)


def app_of_worker() -> FastAPI:
    """Return the application of a process of `--workers`."""
    settings = Settings.from_json(os.environ[SETTINGS])
    torch.set_num_threads(max(1, torch.get_num_threads() // settings.workers))
    return make_app(Service(settings))
