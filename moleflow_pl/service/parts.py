"""The state of each source, sink and other part of all processes, in the database."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import delete, select

from moleflow_pl.service.database import Database
from moleflow_pl.service.health import ELSEWHERE, STARTING, Health
from moleflow_pl.service.machine import this_machine
from moleflow_pl.service.tables import Part

REPORT_SECONDS = 10.0  # between two reports of the same state
SILENT_SECONDS = 40.0  # after which a part is silent
OF_ALL = ("drift",)  # parts beside the sinks that run on one machine for all
VERSIONS = "versions"  # kind of the parts of which each process has one

Groups = Mapping[str, Sequence[Health]]


@dataclass
class Reporter:
    """Stores the state of the parts that this process runs.

    Args:
        database: Where to.
        groups: The parts of the service by kind, whichever process runs them.
    """

    database: Database
    groups: Groups
    _last: dict[tuple[str, str], tuple[bool, str]] = field(default_factory=dict)
    _when: float = float("-inf")

    def begin(self) -> None:
        """Forget parts of this machine that no longer exist."""
        mine = Part.machine == this_machine()
        with self.database.writing() as session:
            for row in session.scalars(select(Part).where(mine)):
                names = {one.name for one in self.groups.get(row.kind, ())}
                silent = row.seen < time.time() - SILENT_SECONDS
                if row.name not in names and (row.kind != VERSIONS or silent):
                    session.delete(row)

    def look(self) -> None:
        """Store what has changed, and all of it from time to time."""
        now, rows = time.time(), self._rows()
        state = {(row.kind, row.name): (row.ok, row.detail) for row in rows}
        if state == self._last and now - self._when < REPORT_SECONDS:
            return
        old = (Part.machine == this_machine(), Part.kind == VERSIONS)
        with self.database.writing() as session:
            session.execute(delete(Part).where(*old, Part.seen < now - SILENT_SECONDS))
            for row in rows:
                session.merge(row)
        self._last, self._when = state, now

    def _rows(self) -> list[Part]:
        machine, now = this_machine(), time.time()
        return [
            Part(
                machine=machine,
                kind=kind,
                name=f"process {os.getpid()}" if kind == VERSIONS else one.name,
                ok=one.ok,
                detail=one.detail,
                since=one.since,
                seen=now,
            )
            for kind, group in self.groups.items()
            for one in group
            if one.detail not in (ELSEWHERE, STARTING)  # who runs it reports it
        ]


def parts(database: Database) -> list[Part]:
    """The parts of all processes; of what runs on one of the machines, the last report."""
    with database.reading() as session:
        rows = session.scalars(select(Part).order_by(Part.seen)).all()
    found = {}
    for row in rows:
        machine = "" if row.kind == "sinks" or row.name in OF_ALL else row.machine
        found[row.kind, row.name, machine] = row
    return sorted(found.values(), key=lambda row: (row.kind, row.name, row.machine))


def is_silent(part: Part) -> bool:
    """Whether the process that ran a part is gone."""
    return part.seen < time.time() - SILENT_SECONDS
