"""Several services, as on several machines, with one PostgreSQL database."""

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from moleflow_pl import MoLEFlow
from moleflow_pl.service.database import Database, Inspection, Review, SeenFile
from moleflow_pl.service.line import Upload
from moleflow_pl.service.models import publish
from moleflow_pl.service.recorder import TakenError
from tests.helpers.postgres import postgres
from tests.helpers.service import an_inspection, client_of, competing, count, picture, settings_for

Learned = tuple[Path, MoLEFlow]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres() as url:
        yield url


def test_decisions_and_models_of_all_are_in_one_place(
    tmp_path: Path, learned: Learned, data_root: Path, url: str
) -> None:
    one = settings_for(tmp_path / "one", learned[0], database=url)
    two = settings_for(tmp_path / "two", learned[0], database=url)
    content = picture(data_root)
    with client_of(one) as first, client_of(two) as second, ThreadPoolExecutor(8) as pool:
        before = count(first.service.database, Inspection)  # type: ignore[attr-defined]
        answers = list(
            pool.map(
                lambda i: (first, second)[i % 2].post("/v1/inspect", content=content), range(40)
            )
        )
        numbers = [answer.json()["id"] for answer in answers]
        assert len(set(numbers)) == 40
        assert count(first.service.database, Inspection) == before + 40  # type: ignore[attr-defined]
        listed = second.get("/v1/inspections", params={"limit": 500}).json()["inspections"]
        assert {one["id"] for one in listed} >= set(numbers)
        other = shutil.copy(learned[0] / "tasks" / "00-01.ckpt", tmp_path / "other.ckpt")
        published = publish(first.service.database, other, "ann")  # type: ignore[attr-defined]
        for client in (first, second):
            client.service.watcher.look()  # type: ignore[attr-defined]
            assert client.get("/v1/products").json()["model"] == published.digest


def test_of_two_services_one_applies_reviews_at_once(url: str) -> None:
    got = competing([Database(url) for _ in range(4)])
    assert got == [False, False, False, True]


def test_the_record_works_as_in_a_file(
    tmp_path: Path, learned: Learned, data_root: Path, url: str
) -> None:
    database = Database(url)
    with database.writing() as session:
        row = an_inspection(image_name="Größe <b>", score=None)
        row.reviews = [Review(verdict="right", who="ann", when=1.0)]
        session.add(row)
    with database.reading() as session:
        found = session.scalars(select(Inspection).where(Inspection.id == row.id)).one()
        assert (found.image_name, found.score) == ("Größe <b>", None)
        assert found.review is not None
    settings = settings_for(tmp_path, learned[0], database=url)
    with client_of(settings) as client:
        line = client.service.line  # type: ignore[attr-defined]
        file = {"source": "folder", "path": "a.png", "size": 1, "modified": 1, "when": 1.0}
        once = Upload(picture(data_root), "a.png", lambda row: [SeenFile(inspection=row, **file)])

        def inspect() -> list[Inspection]:
            return asyncio.run(line.inspect([once], "folder"))

        inspect()
        before = count(database, Inspection)
        with pytest.raises(TakenError):
            inspect()
        assert count(database, Inspection) == before
