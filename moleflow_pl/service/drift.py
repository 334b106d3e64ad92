"""Drift at the line: one process reads the record, and keeps the charts in the database."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import delete, select

from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.inference.drift import Drift, DriftMonitor
from moleflow_pl.service.database import Audit, Database, Inspection, Outbox, Setting
from moleflow_pl.service.health import Health

logger = logging.getLogger(__name__)

STATES = ("steady", "warning", "drift")
CHARTS = "drift"  # name of the setting that holds them
RESTART = "drift restart "  # prefix of a setting's name: a product whose chart restarts
POLL = 1.0  # seconds between two checks
SETTLED = 1.0  # seconds after which all rows with lower numbers are committed
CLOCKS = 60.0  # seconds by which clocks of machines may differ
MOST = 2000  # inspections in one check
WHO = "service"  # in the audit


class DriftFollower:
    """Passes every inspection of all processes to the charts once.

    Args:
        database: The record.
        decisions: Returns the decision maker of the current model, and its digest.
        sinks: Names of the sinks that receive each change of state.
    """

    def __init__(
        self,
        database: Database,
        decisions: Callable[[], tuple[DecisionMaker, str]],
        sinks: Sequence[str] = (),
    ) -> None:
        self.database, self.decisions, self.sinks = database, decisions, tuple(sinks)
        self.health = Health("drift")
        self._model = ""
        self._monitor: DriftMonitor | None = None

    async def run(self) -> None:
        """Check for ever."""
        self._monitor = None  # another process may have continued meanwhile
        while True:
            more = await asyncio.to_thread(self.look)
            self.health.set_state(True, "running")
            if not more:
                await asyncio.sleep(POLL)

    def look(self) -> bool:
        """Process new inspections; return whether there may be more."""
        stored = self._load_charts()
        monitor, last = self._current(stored), stored.get("last", 0)
        with self.database.reading() as session:
            rows = session.scalars(
                select(Inspection).where(Inspection.id > last).order_by(Inspection.id).limit(MOST)
            ).all()
            asked = session.scalars(select(Setting.name).where(Setting.name.startswith(RESTART)))
            restarted = [name.removeprefix(RESTART) for name in asked]
        rows = settled(rows)
        before = {drift["product"]: drift["state"] for drift in stored.get("drifts", [])}
        for product in restarted:
            monitor.restart(product)
        ended = without_chart(before, monitor.drifts)
        before |= {drift.product: drift.state for drift in ended}
        changes = [*ended, *self._process(monitor, rows, before)]
        if rows or restarted or ended:
            self._save_charts(monitor, rows[-1].id if rows else last, restarted, changes)
        return len(rows) == MOST

    def _process(
        self, monitor: DriftMonitor, rows: Sequence[Inspection], before: dict[str, str]
    ) -> list[Drift]:
        """Pass inspections to a monitor; return the changes of state."""
        changes = []
        for row in rows:
            if row.product not in monitor.decisions.names:  # of an earlier model
                continue
            drift = monitor.add(row)
            if drift.state != before.get(row.product, "steady"):
                (logger.info if drift.state == "steady" else logger.warning)("drift of %s", drift)
                changes.append(drift)
            before[row.product] = drift.state
        return changes

    def _current(self, stored: dict[str, Any]) -> DriftMonitor:
        """The monitor of the current model, which continues from the stored state."""
        decisions, digest = self.decisions()
        if self._monitor is None or digest != self._model:
            self._monitor = DriftMonitor(decisions, state=stored.get("monitor"))
            self._model = digest
        return self._monitor

    def _load_charts(self) -> dict[str, Any]:
        with self.database.reading() as session:
            row = session.get(Setting, CHARTS)
        return {} if row is None else json.loads(row.value)

    def _save_charts(
        self,
        monitor: DriftMonitor,
        last: int,
        restarted: Sequence[str],
        changes: Sequence[Drift],
    ) -> None:
        """Store charts, audit entries and outgoing messages in one transaction."""
        drifts = [drift.to_dict() for drift in monitor.drifts]
        value = json.dumps({"last": last, "monitor": monitor.state(), "drifts": drifts})
        names = [f"{RESTART}{product}" for product in restarted]
        with self.database.writing() as session:
            session.merge(Setting(name=CHARTS, value=value))
            session.execute(delete(Setting).where(Setting.name.in_(names)))
            for change in changes:
                detail = {key: change.to_dict()[key] for key in ("product", "state", "reasons")}
                session.add(Audit(when=time.time(), who=WHO, action="drift", detail=detail))
                payload = {"event": "drift", "time": time.time(), **change.to_dict()}
                session.add_all(Outbox(sink=sink, payload=payload) for sink in self.sinks)


def without_chart(states: dict[str, str], drifts: Sequence[Drift]) -> list[Drift]:
    """The products whose chart with a warning or a drift has ended: they are steady again."""
    charted = {one.product for one in drifts}
    ended = [name for name, state in states.items() if state != "steady" and name not in charted]
    return [Drift(name) for name in ended]


def settled(rows: Sequence[Inspection]) -> Sequence[Inspection]:
    """The rows before the first that is so new that one with a lower number may still come."""
    now = time.time()
    new = (i for i, row in enumerate(rows) if now - SETTLED < row.time < now + CLOCKS)
    return rows[: next(new, len(rows))]


def drifts(database: Database) -> dict[str, dict[str, Any]]:
    """The state of each chart by product, as `Drift.to_dict`."""
    with database.reading() as session:
        row = session.get(Setting, CHARTS)
    stored = [] if row is None else json.loads(row.value)["drifts"]
    return {drift["product"]: drift for drift in stored}


def ask_restart(database: Database, product: str, who: str) -> None:
    """Request a restart of a product's chart, after the cause of a drift is fixed."""
    with database.writing() as session:
        session.merge(Setting(name=f"{RESTART}{product}", value=who))
    database.audit(who, "drift restart", product=product)
