"""The parts of a running service."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import HTTPConnection

from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.service.applications import begin
from moleflow_pl.service.delivery import Delivery
from moleflow_pl.service.drift import DriftFollower, drifts
from moleflow_pl.service.engine import Engine
from moleflow_pl.service.health import Background, Health, attend, lock_name
from moleflow_pl.service.line import Line
from moleflow_pl.service.metrics import Metrics
from moleflow_pl.service.models import Building, checkpoint_of, load, stamp_of
from moleflow_pl.service.parts import Reporter
from moleflow_pl.service.products import Teacher
from moleflow_pl.service.retention import DAY_SECONDS, GIBIBYTE, RECORDING, Keeper, Limits
from moleflow_pl.service.security import Keys, Rates
from moleflow_pl.service.settings import Settings, split
from moleflow_pl.service.sinks.base import SINKS
from moleflow_pl.service.sources.base import SOURCES, Handling
from moleflow_pl.service.watcher import ModelWatcher

LOGINS = 5.0  # that a client may try in a second
MEASURE_SECONDS = 0.5  # between two measurements of the queue
REPORT_LOOK = 1.0  # seconds between two looks at the state of the parts


class Service:
    """A service: the model, the record, sources and sinks.

    Args:
        settings: Its settings.

    Raises:
        MoLEFlowError: a model, a database, a source or a sink cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.began = settings, time.time()
        self.database = settings.open_database()
        self.keys = Keys(self.database.setting("secret", secrets.token_hex(32)), settings.token)
        self.building = Building(settings.device, settings.backbone_weights)
        seen = stamp_of(checkpoint_of(Path(settings.model)))
        self.logins = Rates(LOGINS)
        model = load(settings.model, settings.device, settings.backbone_weights)
        version = begin(self.database, settings.model)
        self.engine = Engine(model, settings.batch_size, settings.batch_wait, settings.queue)
        self.store = settings.open_store(self.database)
        self.sinks = [SINKS[k](a) for k, a in (split("--sink", s, SINKS) for s in settings.sinks)]
        sinks = [sink.health.name for sink in self.sinks]
        self.line = Line(self.engine, self.database, self.store, sinks, settings.deadline)
        handling = Handling(settings.move_inspected, settings.interval)
        self.sources = [
            SOURCES[kind](address, self.line, handling)
            for kind, address in (split("--source", source, SOURCES) for source in settings.sources)
        ]
        self.watcher = ModelWatcher(self.database, self.engine, version.id, seen, self.building)
        self.metrics = Metrics()
        self.line.recorded.append(self.metrics.count)
        self.follower = DriftFollower(self.database, self._decisions, sinks)
        work = settings.folder / "learning"
        self.teacher = Teacher(self.database, work, settings.backbone_weights)
        self.keeper = Keeper(self.database, self.store, limits_of(settings))
        images = lock_name("images", str(self.store.folder))
        self.background = [
            Background(self.follower.health, "drift", self.follower.run),
            Background(self.teacher.health, lock_name("learning", "all"), self.teacher.run),
            Background(self.keeper.health, images, self.keeper.run),
        ]
        self.reporter = Reporter(self.database, self.health)
        self._tasks: list[asyncio.Task[None]] = []

    def _decisions(self) -> tuple[DecisionMaker, str]:
        model = self.engine.model
        return model.predictor.decisions, model.digest

    @property
    def health(self) -> dict[str, list[Health]]:
        """The state of each part."""
        return {
            "versions": [self.watcher.health],
            "sources": [source.health for source in self.sources],
            "sinks": [sink.health for sink in self.sinks],
            "background": [one.health for one in self.background],
        }

    def start(self) -> None:
        """Start sources, sinks and background tasks."""
        parts = [
            *(
                Background(s.health, lock_name("source", s.health.name), s.run)
                for s in self.sources
            ),
            *(
                Background(
                    s.health, lock_name("sink", s.health.name), Delivery(self.database, s).run
                )
                for s in self.sinks
            ),
            *self.background,
        ]
        jobs = [self.watcher.run(), self._measure(), self._report()]
        jobs += [attend(self.database, part) for part in parts]
        self._tasks = [asyncio.create_task(job) for job in jobs]

    async def _measure(self) -> None:
        while True:
            self.measure()
            with suppress(SQLAlchemyError):  # the next time is soon
                charts = await asyncio.to_thread(drifts, self.database)
                self.metrics.set_drifts({name: one["state"] for name, one in charts.items()})
            await asyncio.sleep(MEASURE_SECONDS)

    async def _report(self) -> None:
        """Report the state of all parts, for the page of any process."""
        begun = False
        while True:
            with suppress(SQLAlchemyError):  # the next time is soon
                if not begun:
                    await asyncio.to_thread(self.reporter.begin)
                begun = True
                await asyncio.to_thread(self.reporter.look)
            await asyncio.sleep(REPORT_LOOK)

    def measure(self) -> None:
        """Update the metrics of the queue."""
        self.metrics.waiting.set(self.engine.waiting)
        self.metrics.taken.set(self.line.taken)

    async def stop(self) -> None:
        """Finish the accepted images, and end."""
        self.line.stopping = True
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        await asyncio.to_thread(self.line.stop)
        await asyncio.to_thread(self.database.close)


def limits_of(settings: Settings) -> Limits:
    """How long images are kept."""
    return Limits(
        settings.keep_days * DAY_SECONDS,
        settings.keep_gb * GIBIBYTE,
        settings.deadline + RECORDING,
    )


def service_of(connection: HTTPConnection) -> Service:
    """The service of a request."""
    return connection.app.state.service
