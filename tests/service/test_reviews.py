import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.service.applications import LOCK, marks_in
from moleflow_pl.service.database import Database, Review
from moleflow_pl.service.images import ImageStore
from moleflow_pl.service.locks import BusyError, exclusive
from moleflow_pl.service.machine import NAME
from moleflow_pl.service.models import newest
from moleflow_pl.service.reviews import (
    apply_reviews,
    checkpoint_in_use,
    counts,
    elsewhere,
    export_reviews,
    pending,
    preview_reviews,
)
from tests.helpers.service import add_review, an_inspection, reviewed_record


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", 10**6)


@pytest.fixture
def database(tmp_path: Path, store: ImageStore, data_root: Path) -> Database:
    return reviewed_record(tmp_path, store, data_root)


def test_reviews_that_count_wait_in_the_order_they_were_made(
    database: Database, store: ImageStore
) -> None:
    image = store.save(b"x", "PNG")
    add_review(database, an_inspection(image_path=image), "right", undone_when=1.0)
    add_review(database, an_inspection(image_path=image), "right", applied_when=1.0)
    add_review(database, an_inspection(image_path=None), "right")
    add_review(database, an_inspection(image_path="gone.png"), "right")
    found = pending(database, store)
    assert [one.review.verdict for one in found] == ["right", "false_alarm", "false_alarm"]
    assert all(one.review.path.is_file() for one in found)
    assert counts(found) == {"b": {"false_alarm": 2, "right": 1}}


def test_applied_reviews_are_used_once_and_every_process_hears_of_the_model(
    database: Database, store: ImageStore
) -> None:
    with database.reading() as session:
        before = newest(session)
    told = preview_reviews(database, store)
    assert (told.images, told.defects, told.compared) == ({"b": 2}, 1, 3)
    assert apply_reviews(database, store, "Ann") == ["b"]
    with database.reading() as session:
        after = newest(session)
    assert before is not None
    assert after is not None
    assert (after.path, after.who) == (before.path, "Ann")
    assert after.digest != before.digest
    # a defect counts for the recall again
    assert [one.review.verdict for one in pending(database, store)] == ["right"]
    with pytest.raises(DataError, match="nothing to learn"):
        apply_reviews(database, store, "Ann")


def test_all_reviewed_images_are_exported_applied_or_not_and_that_is_noted(
    database: Database, store: ImageStore, tmp_path: Path
) -> None:
    applied, undone = (store.save(b"x", "PNG") for _ in range(2))
    add_review(database, an_inspection(image_path=applied), "right", applied_when=1.0)
    add_review(database, an_inspection(image_path=undone), "right", undone_when=1.0)
    counted = export_reviews(database, store, tmp_path / "out")
    assert counted == {"b/train/good": 2, "b/test/defective": 1, "b/test/good": 1}
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 4
    with database.reading() as session:
        rows = session.scalars(select(Review)).all()
    assert [row.exported_when is not None for row in rows] == [True] * 4 + [False]


def test_two_do_not_apply_at_once(database: Database, store: ImageStore) -> None:
    content = checkpoint_in_use(database).read_bytes()
    with exclusive(database, LOCK), pytest.raises(BusyError, match="reviews: another process"):
        apply_reviews(database, store, "Ann")
    assert checkpoint_in_use(database).read_bytes() == content
    assert len(pending(database, store)) == 3


def test_of_two_that_really_apply_at_once_one_does(
    database: Database, store: ImageStore, tmp_path: Path
) -> None:
    start, outcomes = threading.Barrier(2), []

    def apply(who: str) -> None:
        mine = Database(tmp_path / "line.sqlite")
        start.wait()
        try:
            outcomes.append(apply_reviews(mine, store, who))
        except (BusyError, DataError) as error:
            outcomes.append(type(error))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(apply, ("Ann", "Ben")))
    assert ["b"] in outcomes
    assert len([one for one in outcomes if one in (BusyError, DataError)]) == 1
    assert [one.review.verdict for one in pending(database, store)] == ["right"]
    assert len(marks_in(tmp_path / "run" / "last.ckpt")) == 1


def test_service_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model yet"):
        checkpoint_in_use(Database(tmp_path / "none.sqlite"))


def test_a_model_that_only_another_machine_has_is_refused(
    database: Database, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "elsewhere")
    assert checkpoint_in_use(database) == tmp_path / "run" / "last.ckpt"  # shared
    (tmp_path / "run" / "last.ckpt").write_bytes(b"another")
    with pytest.raises(ConfigError, match="which this machine does not have: do it on"):
        apply_reviews(database, store, "Ann")


def test_reviews_whose_images_another_machine_has_are_counted_and_refused(
    database: Database, store: ImageStore, tmp_path: Path
) -> None:
    assert elsewhere(database, store) == 0
    (tmp_path / "images").rename(tmp_path / "away")
    assert elsewhere(database, store) == 3
    for ask in (preview_reviews, lambda *of: apply_reviews(*of, "Ann")):
        with pytest.raises(ConfigError, match="images of 3 reviews are not on this machine"):
            ask(database, store)
    exported = an_inspection(image_path="gone.png")
    add_review(database, exported, "right", exported_when=1.0)
    assert elsewhere(database, store) == 3
