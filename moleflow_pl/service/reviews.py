"""Applies reviews of the record to the model, in one process at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sqlalchemy import ColumnElement, select, update

from moleflow_pl._internal.hashing import file_hash
from moleflow_pl._internal.torch_threads import one_thread
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import ConfigError
from moleflow_pl.inference import reviews as library
from moleflow_pl.inference.decisions import Label
from moleflow_pl.inference.predictor import auto_device
from moleflow_pl.inference.reviews import PastDecision, Preview, reviewed_products
from moleflow_pl.model.restore import inspector_of
from moleflow_pl.service.applications import LOCK, adopt
from moleflow_pl.service.database import Database, Inspection, Review
from moleflow_pl.service.images import ImageStore
from moleflow_pl.service.locks import exclusive, require_held
from moleflow_pl.service.machine import this_machine
from moleflow_pl.service.models import USUAL, Building, newest
from moleflow_pl.service.tables import Application

PAST = 200  # last decisions that a preview compares with


@dataclass(frozen=True)
class Pending:
    """A review that is not applied yet.

    Attributes:
        number: Its `id`.
        review: The review, of a stored image.
    """

    number: int
    review: library.Review


def pending(database: Database, store: ImageStore) -> list[Pending]:
    """Valid reviews of stored images that are not applied yet, the oldest first."""
    return counting(database, store, Review.applied_when.is_(None))


def counting(database: Database, store: ImageStore, *where: ColumnElement[bool]) -> list[Pending]:
    """Valid reviews of stored images, the oldest first."""
    reviewed = select(Review.inspection_id).where(Review.undone_when.is_(None), *where)
    query = select(Inspection).where(Inspection.id.in_(reviewed))
    with database.reading() as session:
        rows = session.scalars(query).all()
        fitting = set(session.scalars(select(Review.id).where(*where)))
    dated: list[tuple[float, Pending]] = []
    for row in rows:
        review, path = row.review, store.path(row.image_path)
        if review is None or review.id not in fitting or path is None or row.label is None:
            continue
        verdict = cast(library.Verdict, review.verdict)
        item = library.Review(path, row.product, cast(Label, row.label), verdict)
        dated.append((review.when, Pending(review.id, item)))
    return [review for _, review in sorted(dated, key=lambda pair: (pair[0], pair[1].number))]


def elsewhere(database: Database, store: ImageStore) -> int:
    """How many reviews wait whose images another machine has."""
    query = (
        select(Inspection.image_path)
        .join(Review)
        .where(
            Review.undone_when.is_(None),
            Review.applied_when.is_(None),
            Review.exported_when.is_(None),  # such an image may be deleted
            Inspection.image_path.is_not(None),
        )
        .distinct()
    )
    with database.reading() as session:
        return sum(store.path(place) is None for place in session.scalars(query))


def require_here(database: Database, store: ImageStore, found: Sequence[Pending]) -> None:
    """Check that there are good images here, or nowhere.

    Raises:
        ConfigError: only another machine has some.
    """
    if not any(one.review.good for one in found) and (count := elsewhere(database, store)):
        raise ConfigError(
            f"the images of {count} reviews are not on this machine: apply the reviews on the "
            "machine that has them, or put the run in a folder that all machines share"
        )


def counts(reviews: list[Pending]) -> dict[str, Counter[str]]:
    """How many pending reviews each product has, by verdict."""
    counted: dict[str, Counter[str]] = {}
    for item in reviews:
        counted.setdefault(item.review.product, Counter())[item.review.verdict] += 1
    return counted


def checkpoint_in_use(database: Database) -> Path:
    """The file of the model that all processes use.

    Raises:
        ConfigError: the service has no model yet, or the model is another machine's.
    """
    with database.reading() as session:
        row = newest(session)
    if row is None:
        raise ConfigError("the service has no model yet: start it with moleflow serve RUN")
    file = Path(row.path)
    if row.machine != this_machine() and not (file.is_file() and file_hash(file) == row.digest):
        raise ConfigError(
            f"the model in use is {file} of {row.machine}, which this machine does not have: do "
            f"it on {row.machine}, or put the run in a folder that all machines share"
        )
    return file


def apply_reviews(
    database: Database, store: ImageStore, who: str, options: Building = USUAL
) -> list[str]:
    """Put new versions of the reviewed experts into the model; every process swaps to it.

    If the process is killed, the next start or the next call finishes it or forgets it.

    Args:
        database: The record.
        store: Its images.
        who: Who requests it, for the audit log.
        options: How models are built.

    Returns:
        The names of the experts.

    Raises:
        BusyError: another process is applying reviews.
        MoLEFlowError: a review cannot be applied; the model is unchanged.
    """
    with exclusive(database, LOCK) as holder:
        path = checkpoint_in_use(database)
        adopt(database, path)
        items = pending(database, store)
        require_here(database, store, items)

        def note(marks: dict[str, str]) -> None:
            rows = [application(path, who, product, marks[product], items) for product in marks]
            with database.writing() as session:
                require_held(session, LOCK, holder)
                session.add_all(rows)

        with one_thread():
            reviews = [item.review for item in items]
            tasks = library.apply(
                path, reviews, device=options.device, before_write=note, **options.overrides
            )
        adopt(database, path, who)
    return [task.name for task in tasks]


def application(
    path: Path, who: str, product: str, mark: str, items: Sequence[Pending]
) -> Application:
    """A row for the good images of a product."""
    good = [item.number for item in items if item.review.good and item.review.product == product]
    return Application(path=str(path), expert=product, mark=mark, reviews=good, who=who, done=None)


def export_reviews(database: Database, store: ImageStore, folder: Path) -> dict[str, int]:
    """Copy all reviewed images that are there into a folder, in MVTec's layout, and note it.

    Returns:
        How many images went to each folder.

    Raises:
        MoLEFlowError: an image cannot be copied.
    """
    items = counting(database, store)
    placed = library.export_reviews([item.review for item in items], folder)
    with database.writing() as session:
        for item in items:  # they may be more than a database takes in one query
            used = update(Review).where(Review.id == item.number)
            session.execute(used.values(exported_when=time.time()))
    return placed


def preview_reviews(database: Database, store: ImageStore, options: Building = USUAL) -> Preview:
    """What `apply_reviews` would change among the last decisions whose images were kept.

    Raises:
        MoLEFlowError: the reviews cannot be applied.
    """
    items, path = pending(database, store), checkpoint_in_use(database)
    require_here(database, store, items)
    reviews = [item.review for item in items]
    products = reviewed_products(reviews)
    query = select(Inspection).where(Inspection.image_path.is_not(None))
    with database.reading() as session:
        rows = session.scalars(query.order_by(Inspection.id.desc()).limit(PAST)).all()
    past = [
        PastDecision(store.folder / str(row.image_path), row.product, str(row.label))
        for row in rows
    ]
    place = auto_device() if options.device == "auto" else options.device
    with one_thread():
        checkpoint = read_checkpoint(path)
        inspector = inspector_of(checkpoint, path, place, **options.overrides)
        seed = checkpoint[STATE_KEY]["seed"]
        return library.preview(inspector, reviews, past, seed, products)
