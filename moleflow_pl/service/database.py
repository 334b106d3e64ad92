"""The database of a service: inspections, reviews, the audit log, and the outbox.

An SQLite file by default; by URL, PostgreSQL or any database that SQLAlchemy supports. Times are
seconds since 1970, UTC.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    ForeignKey,
    Index,
    UniqueConstraint,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from moleflow_pl import __version__
from moleflow_pl.errors import ConfigError, OutputError
from moleflow_pl.service.tables import Base, Id

SCHEMA = "3"
BUSY_SECONDS = 10  # that a writer waits for another one
Verdict = Literal["false_alarm", "missed_defect", "right", "other_product"]


class Inspection(Base):
    """One image and the model's decision about it.

    Attributes:
        source: Where the image came from: `http`, or the name of a source.
        image_name: Its name from the client or the folder.
        product: The product that the prediction names.
        prediction: `Prediction.to_dict()`.
        brightness: Mean grey level of the model's input, in 0..1.
        patch_scores: The map of `Prediction.patch_scores`, float32 in rows; `records.prediction_of`
            reads it, so that heatmaps are drawn when someone looks.
        grid: Its height and width.
        image_path: The image, relative to the service's folder of images; None if it was not kept.
        seconds: From the arrival of the image to the decision.
        model: Digest of the model, `Model.digest`.
    """

    __tablename__ = "inspections"
    __table_args__ = (
        Index("inspections_product_id", "product", "id"),
        Index("inspections_label_id", "label", "id"),
        Index("inspections_time", "time"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    time: Mapped[float]
    source: Mapped[str]
    image_name: Mapped[str]
    product: Mapped[str]
    label: Mapped[str | None]
    score: Mapped[float | None]
    threshold: Mapped[float | None]
    normalised_score: Mapped[float | None]
    novelty_ratio: Mapped[float | None]
    router_distance: Mapped[float | None]
    router_margin: Mapped[float | None]
    brightness: Mapped[float | None]
    prediction: Mapped[dict[str, Any]]
    patch_scores: Mapped[bytes] = mapped_column(deferred=True)
    grid: Mapped[list[int]]
    image_path: Mapped[str | None]
    seconds: Mapped[float]
    model: Mapped[str]

    reviews: Mapped[list[Review]] = relationship(
        back_populates="inspection", order_by="Review.id", lazy="selectin"
    )

    @property
    def review(self) -> Review | None:
        """The last review that was not undone."""
        return next((r for r in reversed(self.reviews) if r.undone_when is None), None)


class Review(Base):
    """A person's review of an inspection; the last one that is not undone counts.

    Attributes:
        verdict: `false_alarm`, `missed_defect`, `right` or `other_product`.
        product: The product that the image shows, with `other_product`.
        applied_when: When it was applied to the model; None before.
        exported_when: When its image was last exported; None before.
    """

    __tablename__ = "reviews"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    inspection_id: Mapped[int] = mapped_column(ForeignKey("inspections.id"), index=True)
    verdict: Mapped[str]
    product: Mapped[str | None]
    who: Mapped[str]
    when: Mapped[float]
    undone_when: Mapped[float | None]
    applied_when: Mapped[float | None]
    exported_when: Mapped[float | None]

    inspection: Mapped[Inspection] = relationship(back_populates="reviews")


class Audit(Base):
    """The audit log: reviews, model changes, refused tokens."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    when: Mapped[float]
    who: Mapped[str]
    action: Mapped[str]
    detail: Mapped[dict[str, Any]]


class Outbox(Base):
    """Messages that a sink has to deliver, in the order of `id`; `delivered` is set afterwards.

    A message is an inspection, or an event in `payload`.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_sink_delivered_id", "sink", "delivered", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    sink: Mapped[str]
    inspection_id: Mapped[int | None] = mapped_column(ForeignKey("inspections.id"))
    payload: Mapped[dict[str, Any] | None]
    tries: Mapped[int] = mapped_column(default=0)
    delivered: Mapped[float | None]
    error: Mapped[str | None]

    inspection: Mapped[Inspection | None] = relationship()


class SeenFile(Base):
    """A file of a watched folder that was inspected, or is not an image."""

    __tablename__ = "seen_files"
    __table_args__ = (UniqueConstraint("source", "path", "size", "modified"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    source: Mapped[str]
    path: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    modified: Mapped[int] = mapped_column(BigInteger)  # ns
    inspection_id: Mapped[int | None] = mapped_column(ForeignKey("inspections.id"))
    error: Mapped[str | None]
    when: Mapped[float]

    inspection: Mapped[Inspection | None] = relationship()


class Model(Base):
    """A version of the model; all processes of a service use the newest.

    Attributes:
        path: The run folder or the checkpoint.
        digest: SHA-256 of the file.
        machine: The machine that published it.
    """

    __tablename__ = "models"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    path: Mapped[str]
    digest: Mapped[str]
    machine: Mapped[str]
    who: Mapped[str]
    when: Mapped[float]


class Lease(Base):
    """The holder of a lock, and until when; see `locks.exclusive`."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    until: Mapped[float]


class Setting(Base):
    """A value that all processes of a service share."""

    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Database:
    """A database with all tables.

    Args:
        url: A path of an SQLite file, or a URL of SQLAlchemy, such as
            `postgresql://user@host/moleflow`.

    Raises:
        ConfigError: the URL is invalid, or the database has another schema.
        OutputError: the database cannot be reached or written.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = full_url(str(url))
        try:
            self.engine = self._make()
            self._reading = self.engine.execution_options(reads=True)
            with self.writing() as session:
                Base.metadata.create_all(session.connection())
            self._check_schema()
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ConfigError(
                f"no database at {self.shown}: give the path of a file, or a URL such as "
                f"postgresql://user@host/moleflow ({error})"
            ) from error
        except SQLAlchemyError as error:
            raise OutputError(
                f"cannot use the database {self.shown}: {reason_of(error)}"
            ) from error

    def _make(self) -> Engine:
        if not self.is_sqlite:
            return create_engine(self.url, pool_pre_ping=True, pool_size=8, max_overflow=24)
        # a connection for each thread that asks, as many as there are
        options = {"timeout": BUSY_SECONDS, "check_same_thread": False}
        engine = create_engine(self.url, connect_args=options, pool_size=8, max_overflow=24)
        event.listen(engine, "connect", prepare_sqlite)
        event.listen(engine, "begin", begin_sqlite)
        return engine

    def _check_schema(self) -> None:
        schema = self.setting("schema", SCHEMA)
        if schema != SCHEMA:
            with self.reading() as session:
                version = session.get(Setting, "version")  # earlier versions did not store it
            use = f"use version {version.value:.40}, which wrote it, or " if version else ""
            raise ConfigError(
                f"the database {self.shown} has schema {schema:.20}, and MoLE-Flow {__version__} "
                f"reads schema {SCHEMA}: {use}choose another one with --database"
            )
        self.setting("version", __version__)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is an SQLite file."""
        return self.url.startswith("sqlite")

    @property
    def shown(self) -> str:
        """The URL without its password."""
        before, at, after = self.url.rpartition("@")
        scheme, _, login = before.partition("://")
        return f"{scheme}://{login.partition(':')[0]}@{after}" if at else self.url

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is committed at the end of the block.

        With SQLite it waits for other writers before the block, so what it reads is still true when
        it writes.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection()
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, concurrently with any writer."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    def setting(self, name: str, default: str) -> str:
        """A shared value; the first process that reads it stores its default."""
        with self.reading() as session:
            row = session.get(Setting, name)
        if row is not None:
            return row.value
        try:
            with self.writing() as session:
                row = session.get(Setting, name) or Setting(name=name, value=default)
                session.add(row)
        except IntegrityError:  # another process was faster
            return self.setting(name, default)
        return row.value

    def audit(self, who: str, action: str, **detail: Any) -> None:
        """Add an entry to the audit log."""
        with self.writing() as session:
            session.add(Audit(when=time.time(), who=who, action=action, detail=detail))

    def now(self, session: Session) -> float:
        """The time by the clock of the database, which all machines share."""
        if self.is_sqlite:
            return time.time()
        return float(session.scalars(select(func.extract("epoch", func.clock_timestamp()))).one())

    def check(self) -> None:
        """Check that the database answers.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        with self.reading() as session:
            session.execute(select(text("1")))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def full_url(url: str) -> str:
    """The URL of SQLAlchemy for a URL or the path of a file.

    Example:
        >>> full_url("a.sqlite"), full_url("postgresql://me@db/line")
        ('sqlite:///a.sqlite', 'postgresql+psycopg://me@db/line')
    """
    for scheme in ("postgres://", "postgresql://"):  # the driver that the extra installs
        if url.startswith(scheme):
            return f"postgresql+psycopg://{url.removeprefix(scheme)}"
    return url if "://" in url else f"sqlite:///{url}"


def reason_of(error: SQLAlchemyError) -> str:
    """The database's own error message, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def prepare_sqlite(connection: Any, record: object) -> None:
    """Set up a connection to an SQLite file: readers beside one writer, safe after a power cut."""
    connection.isolation_level = None  # `begin_sqlite` begins transactions, not Python
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def begin_sqlite(connection: Connection) -> None:
    """Begin a transaction; a writing one locks at once, since locks cannot be upgraded."""
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
