"""How long images are kept."""

import os
import time
from pathlib import Path

import pytest

from moleflow_pl.service.database import Database, Inspection, Review
from moleflow_pl.service.images import ImageStore
from moleflow_pl.service.retention import DAY_SECONDS, Keeper, Limits
from tests.helpers.service import an_inspection, count

SIZE = 100  # bytes of each image
FOREVER = Limits(1e9, 1e12, recording=60.0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "line.sqlite")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", 100)


def kept(store: ImageStore, days: float = 0.0) -> str:
    """An image that was kept some days ago; without a row."""
    place = store.save(bytes(SIZE), "PNG")
    assert place is not None
    then = time.time() - days * DAY_SECONDS
    day = time.strftime("%Y-%m-%d", time.gmtime(then))
    old = f"{day}/{then:.6f}-{place.rpartition('-')[2]}"
    (store.folder / day).mkdir(exist_ok=True)
    (store.folder / place).rename(store.folder / old)
    os.utime(store.folder / old, (then, then))
    return old


def inspected(
    database: Database, store: ImageStore, days: float = 0.0, *reviews: dict[str, float]
) -> str:
    """An image that was kept and inspected some days ago, and what was said of it."""
    place = kept(store, days)
    said = [Review(verdict="right", who="Ann", when=1.0, **values) for values in reviews]
    with database.writing() as session:
        then = time.time() - days * DAY_SECONDS
        session.add(an_inspection(time=then, image_path=place, reviews=said))
    return place


def places(store: ImageStore) -> set[str]:
    return {str(p.relative_to(store.folder)) for p in store.folder.rglob("*") if p.is_file()}


def test_an_image_that_nobody_recorded_is_removed_at_the_first_look(
    database: Database, store: ImageStore
) -> None:
    (store.folder / "2020-01-01").mkdir(parents=True)
    (store.folder / "2020-01-01" / "mine.txt").write_text("of a person")
    (store.folder / "notes").mkdir()
    recorded, lost = inspected(database, store, 3.0), [kept(store, 3.0), kept(store, 0.01)]
    fresh = kept(store)  # its request may still be under way
    keeper = Keeper(database, store, FOREVER)
    assert sorted(keeper.look()) == sorted(lost)
    assert places(store) == {recorded, fresh, "2020-01-01/mine.txt"}
    assert (store.folder / "notes").is_dir()
    assert keeper.look() == []


def test_an_image_whose_process_was_killed_later_is_removed_by_a_later_look(
    database: Database, store: ImageStore
) -> None:
    keeper = Keeper(database, store, Limits(1e9, 1e12, recording=-1.0))  # it comes to nothing
    assert keeper.look() == []
    lost = kept(store, -2 / DAY_SECONDS)
    keeper.limits = Limits(1e9, 1e12, recording=-10.0)
    assert keeper.look() == [lost]


def test_images_without_a_review_go_by_age_and_their_rows_stay(
    database: Database, store: ImageStore
) -> None:
    old, new = inspected(database, store, 8.0), inspected(database, store, 6.0)
    held = inspected(database, store, 9.0, {})
    used = inspected(database, store, 9.0, {"applied_when": 1.0})
    undone = inspected(database, store, 9.0, {"undone_when": 1.0})
    removed = Keeper(database, store, Limits(7 * DAY_SECONDS, 1e12)).look()
    assert removed == [undone, old]
    assert places(store) == {new, held, used}
    assert not (store.folder / old).parent.exists()
    assert count(database, Inspection) == 5


def test_the_oldest_go_where_room_is_short_reviewed_ones_last_and_waiting_ones_never(
    database: Database, store: ImageStore
) -> None:
    applied = inspected(database, store, 5.0, {"applied_when": 1.0})
    exported = inspected(database, store, 4.0, {"exported_when": 1.0})
    again = inspected(database, store, 6.0, {"applied_when": 1.0}, {})  # another review counts
    plain = [inspected(database, store, days) for days in (3.0, 2.0, 1.0)]

    def left(images: float) -> set[str]:
        keeper = Keeper(database, store, Limits(1e9, images * SIZE))
        keeper.look()
        assert keeper.health.ok == (images >= 1), keeper.health.detail
        return places(store)

    assert left(6) == {applied, exported, again, *plain}
    assert left(4.5) == {applied, exported, again, *plain[2:]}
    assert left(3) == {applied, exported, again}
    assert left(2) == {exported, again}
    assert left(1) == {again}
    assert left(0.5) == {again}


def test_images_that_wait_for_their_reviews_are_told_where_room_is_short(
    database: Database, store: ImageStore
) -> None:
    inspected(database, store, 1.0, {})
    keeper = Keeper(database, store, Limits(1e9, 1.0))
    assert keeper.look() == []
    assert "apply or export their reviews" in keeper.health.detail


def test_a_folder_that_is_not_there_holds_no_image(database: Database, tmp_path: Path) -> None:
    assert Keeper(database, ImageStore(tmp_path / "none", 1), FOREVER).look() == []
