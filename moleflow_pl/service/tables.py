"""The base of all tables, and the tables by which the processes of a service agree."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Double, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite auto-increments only columns of this type
Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Base class of all tables."""

    type_annotation_map = {float: Double, str: Text, dict[str, Any]: JSON, list[int]: JSON}  # noqa: RUF012


class Application(Base):
    """Reviews that an expert learns from, noted before the model's file is written.

    Attributes:
        mark: What the expert then holds in `Task.reviews`.
        path: The checkpoint.
        expert: Name of the expert.
        reviews: `Review.id` of each.
        done: When they were marked as applied; None before.
    """

    __tablename__ = "applications"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    mark: Mapped[str] = mapped_column(unique=True)
    path: Mapped[str]
    expert: Mapped[str]
    reviews: Mapped[list[int]]
    who: Mapped[str]
    done: Mapped[float | None]


class Part(Base):
    """The state of a source, a sink or another part, as the process that runs it reports.

    Attributes:
        kind: Such as `sources`.
        since: Start of this state.
        seen: When it was last reported.
    """

    __tablename__ = "parts"

    machine: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    ok: Mapped[bool]
    detail: Mapped[str]
    since: Mapped[float]
    seen: Mapped[float]
