"""Parts of a service for tests."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from starlette.testclient import TestClient

from moleflow_pl.service.app import make_app
from moleflow_pl.service.applications import begin
from moleflow_pl.service.database import Base, Database, Inspection, Review
from moleflow_pl.service.images import ImageStore
from moleflow_pl.service.locks import BusyError, exclusive
from moleflow_pl.service.settings import Settings
from moleflow_pl.service.state import Service
from tests.helpers.reviewing import images_of, kept_run


def an_inspection(**changes: Any) -> Inspection:
    """An inspection of a normal image."""
    values = {
        "time": 1.0, "source": "http", "image_name": "a.png", "product": "b", "label": "normal",
        "score": 1.0, "threshold": 2.0, "normalised_score": 0.25, "novelty_ratio": 0.5,
        "router_distance": 1.0, "router_margin": 3.0, "brightness": 0.5, "image_path": None,
        "patch_scores": bytes(4), "grid": [1, 1], "seconds": 0.01, "model": "ab",
    }  # fmt: skip
    made = Inspection(**{**values, **changes})
    names = ("product", "label", "score", "threshold", "normalised_score", "novelty_ratio")
    made.prediction = {name: getattr(made, name) for name in names}
    return made


def settings_for(where: Path, run: Path, **options: Any) -> Settings:
    """Settings of a service for a copy of a run's model."""
    copy = where / "run"
    if not copy.exists():
        copy.mkdir(parents=True)
        shutil.copy(run / "last.ckpt", copy)
    return Settings(str(copy), **{"batch_wait": 0.0, **options})


@contextmanager
def client_of(settings: Settings, **options: Any) -> Iterator[TestClient]:
    """A client of a service in this process; `client.service` is the service."""
    service = Service(settings)
    with TestClient(make_app(service), base_url="http://127.0.0.1", **options) as client:
        client.service = service  # type: ignore[attr-defined]
        yield client


def picture(root: Path, name: str = "b", kind: str = "good", number: int = 0) -> bytes:
    """The bytes of a test image of a product."""
    return (root / name / "test" / kind / f"{number:03d}.png").read_bytes()


def count(database: Database, table: type[Base]) -> int:
    """Rows of a table."""
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


async def during(
    job: Coroutine[Any, Any, None], true: Callable[[], object], seconds: float = 60
) -> None:
    """Run a job until something is true."""
    task = asyncio.create_task(job)
    async with asyncio.timeout(seconds):
        while not true():
            if task.done():
                task.result()  # its failure
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def competing(databases: Sequence[Database]) -> list[bool]:
    """Who gets a lock that all want at once, each in a thread: the losers first."""
    start, done = threading.Barrier(len(databases)), threading.Event()
    got: list[bool] = []

    def compete(database: Database) -> None:
        start.wait()
        try:
            with exclusive(database, "reviews"):
                got.append(True)
                done.wait(10)
        except BusyError:
            got.append(False)

    with ThreadPoolExecutor(len(databases)) as pool:
        tasks = [pool.submit(compete, database) for database in databases]
        while len(got) < len(tasks) and not any(t.done() and t.exception() for t in tasks):
            time.sleep(0.01)
        done.set()
        for task in tasks:
            task.result()
    return sorted(got)


def add_review(database: Database, row: Inspection, verdict: str, **values: float) -> None:
    """Keep an inspection and what was said of it."""
    with database.writing() as session:
        session.add(row)
        session.flush()
        given = {"when": 1.0, "undone_when": None, "applied_when": None, "exported_when": None}
        given |= values
        session.add(Review(inspection_id=row.id, verdict=verdict, product=None, who="Ann", **given))


def add_reviews(database: Database, store: ImageStore, root: Path) -> None:
    """Two false alarms and a defect of the product `b`, the newest review first."""
    kinds = [("good", "false_alarm"), ("good", "false_alarm"), ("square", "right")]
    for i, (kind, verdict) in enumerate(kinds):
        content = images_of(root, "b", kind)[i].read_bytes()
        row = an_inspection(label="anomalous", image_path=store.save(content, "PNG"))
        add_review(database, row, verdict, when=float(10 - i))


def reviewed_record(folder: Path, store: ImageStore, root: Path) -> Database:
    """A record of two false alarms and a defect, and of a model in `folder / "run"`."""
    database = Database(folder / "line.sqlite")
    begin(database, kept_run(folder / "run"))
    add_reviews(database, store, root)
    return database
