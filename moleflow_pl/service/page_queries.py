"""Database queries of the web page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Select, case, exists, func, select

from moleflow_pl.service.database import Database, Inspection, Review

PAGE = 40  # decisions on a page
HISTORY = 120  # scores in a drawing
SHIFT_HOURS = 8


@dataclass(frozen=True)
class Filters:
    """Which decisions are shown.

    Attributes:
        product: Only this product.
        label: Only this label.
        reviewed: `yes` or `no`.
        since: From this local time on, in the format of a browser.
        until: Before this local time.
        before: Only with a lower `id`, for the next page.
    """

    product: str = ""
    label: str = ""
    reviewed: str = ""
    since: str = ""
    until: str = ""
    before: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """The filters in a query; unknown names are ignored."""
        return cls(**{name: query.get(name, "") for name in cls.__annotations__})

    @property
    def are_set(self) -> bool:
        """Whether some decisions are left out."""
        return any(vars(self).values())

    def query(self, before: int) -> str:
        """The query of the page with older decisions."""
        values = {**vars(self), "before": str(before)}
        return urlencode({name: value for name, value in values.items() if value})

    def apply(self, query: Select[Any]) -> Select[Any]:
        """Add the filters to a query."""
        if self.product:
            query = query.where(Inspection.product == self.product)
        if self.label:
            query = query.where(Inspection.label == self.label)
        since, until = local_time(self.since), local_time(self.until)
        if since is not None:
            query = query.where(Inspection.time >= since)
        if until is not None:
            query = query.where(Inspection.time < until)
        if self.before.isdecimal():
            query = query.where(Inspection.id < int(self.before[:18]))
        counted = exists().where(
            Review.inspection_id == Inspection.id, Review.undone_when.is_(None)
        )
        if self.reviewed in ("yes", "no"):
            query = query.where(counted if self.reviewed == "yes" else ~counted)
        return query


def local_time(text: str) -> float | None:
    """Seconds since 1970 of a local time as a browser writes it; None for any other text.

    Example:
        >>> local_time("soon") is None, local_time("1970-01-02T00:00") is None
        (True, False)
    """
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def decisions(database: Database, filters: Filters) -> tuple[list[Inspection], int | None]:
    """Decisions, the newest first, and the `id` before which the next page begins, if any."""
    query = filters.apply(select(Inspection)).order_by(Inspection.id.desc()).limit(PAGE + 1)
    with database.reading() as session:
        rows: list[Inspection] = list(session.scalars(query))
    return rows[:PAGE], rows[PAGE - 1].id if len(rows) > PAGE else None


def history(database: Database, inspection: Inspection) -> list[Inspection]:
    """The last inspections of a product up to one, and that one; the oldest first."""
    query = (
        select(Inspection)
        .where(Inspection.product == inspection.product, Inspection.id <= inspection.id)
        .order_by(Inspection.id.desc())
        .limit(HISTORY)
    )
    with database.reading() as session:
        return list(session.scalars(query))[::-1]


def neighbours(database: Database, number: int) -> tuple[int | None, int | None]:
    """The `id` of the next newer inspection and of the next older one."""
    with database.reading() as session:
        newer = session.scalar(select(func.min(Inspection.id)).where(Inspection.id > number))
        older = session.scalar(select(func.max(Inspection.id)).where(Inspection.id < number))
    return newer, older


def last_number(database: Database) -> int:
    """The `id` of the newest inspection; 0 where there is none."""
    with database.reading() as session:
        return session.scalar(select(func.max(Inspection.id))) or 0


@dataclass(frozen=True)
class Tally:
    """The decisions about a product in a shift."""

    product: str
    count: int
    anomalous: int
    unknown: int
    reviewed: int


def tallies(database: Database, since: float) -> list[Tally]:
    """The decisions about each product since a moment, in alphabetical order."""

    def count_of(label: str) -> object:
        return func.sum(case((Inspection.label == label, 1), else_=0))

    counted = exists().where(Review.inspection_id == Inspection.id, Review.undone_when.is_(None))
    query = (
        select(
            Inspection.product,
            func.count(),
            count_of("anomalous"),
            count_of("unknown_product"),
            func.sum(case((counted, 1), else_=0)),
        )  # type: ignore[call-overload]
        .where(Inspection.time >= since)
        .group_by(Inspection.product)
        .order_by(Inspection.product)
    )
    with database.reading() as session:
        return [Tally(*map(as_count, row)) for row in session.execute(query)]  # type: ignore[arg-type]


def as_count(value: object) -> object:
    """A count as an integer, whatever the database makes of a sum."""
    return value if isinstance(value, str) else int(value)  # type: ignore[call-overload]
