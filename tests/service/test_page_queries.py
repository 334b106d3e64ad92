import time
from datetime import datetime
from pathlib import Path

import pytest

from moleflow_pl.service.database import Database, Inspection, Review
from moleflow_pl.service.page_queries import (
    HISTORY,
    PAGE,
    Filters,
    Tally,
    decisions,
    history,
    last_number,
    neighbours,
    tallies,
)
from tests.helpers.service import an_inspection


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "line.sqlite")


def keep(database: Database, *rows: Inspection | Review) -> None:
    with database.writing() as session:
        session.add_all(rows)


def a_review(number: int, undone: float | None = None) -> Review:
    return Review(
        inspection_id=number, verdict="right", product=None, who="Ann", when=1.0,
        undone_when=undone, applied_when=None,
    )  # fmt: skip


def numbers(database: Database, **filters: str) -> list[int]:
    return [one.id for one in decisions(database, Filters(**filters))[0]]


def test_decisions_come_newest_first_by_pages(database: Database) -> None:
    keep(database, *(an_inspection() for _ in range(PAGE + 3)))
    first, before = decisions(database, Filters())
    assert [one.id for one in first] == list(range(PAGE + 3, 3, -1))
    assert before == 4
    rest, before = decisions(database, Filters(before=str(before)))
    assert ([one.id for one in rest], before) == ([3, 2, 1], None)


def test_filters_leave_what_they_name(database: Database) -> None:
    moments = [datetime(2026, 1, day).timestamp() for day in (1, 2, 3)]
    keep(
        database,
        an_inspection(product="a", label="normal", time=moments[0]),
        an_inspection(product="b", label="anomalous", time=moments[1]),
        an_inspection(product="b", label="normal", time=moments[2]),
    )
    keep(database, a_review(1), a_review(2, undone=5.0))
    assert numbers(database, product="b") == [3, 2]
    assert numbers(database, label="normal") == [3, 1]
    assert numbers(database, reviewed="yes") == [1]
    assert numbers(database, reviewed="no") == [3, 2]  # undone is not reviewed
    assert numbers(database, since="2026-01-02T00:00") == [3, 2]
    assert numbers(database, since="2026-01-01T12:00", until="2026-01-02T12:00") == [2]
    assert numbers(database, product="b", label="normal") == [3]


def test_filters_that_are_none_count_for_nothing(database: Database) -> None:
    keep(database, an_inspection())
    for filters in ({"since": "soon"}, {"until": "9" * 99}, {"before": "x"}, {"reviewed": "maybe"}):
        assert numbers(database, **filters) == [1]
    assert numbers(database, before="9" * 99) == [1]


def test_next_page_keeps_the_filters() -> None:
    filters = Filters.of({"product": "a&b", "label": "", "x": "y", "before": "9"})
    assert filters == Filters(product="a&b", before="9")
    assert filters.query(4) == "product=a%26b&before=4"
    assert filters.are_set
    assert not Filters().are_set


def test_history_ends_with_the_one_that_is_looked_at(database: Database) -> None:
    keep(database, *(an_inspection(product="ab"[i % 2]) for i in range(2 * HISTORY + 6)))
    with database.reading() as session:
        one = session.get(Inspection, 2 * HISTORY + 3)
    found = history(database, one)
    assert len(found) == HISTORY
    assert [row.id for row in found[-2:]] == [2 * HISTORY + 1, 2 * HISTORY + 3]


def test_neighbours_are_the_next_there_are(database: Database) -> None:
    assert last_number(database) == 0
    keep(database, *(an_inspection() for _ in range(3)))
    assert neighbours(database, 2) == (3, 1)
    assert neighbours(database, 3) == (None, 2)
    assert neighbours(database, 1) == (2, None)
    assert last_number(database) == 3


def test_tallies_count_a_shift_by_product(database: Database) -> None:
    now = time.time()
    keep(
        database,
        an_inspection(product="b", label="anomalous", time=now),
        an_inspection(product="b", label="normal", time=now),
        an_inspection(product="a", label="unknown_product", time=now),
        an_inspection(product="a", label="anomalous", time=now - 1e5),
    )
    keep(database, a_review(1), a_review(1), a_review(2, undone=1.0))
    assert tallies(database, now - 60) == [Tally("a", 1, 0, 1, 0), Tally("b", 2, 1, 0, 1)]
