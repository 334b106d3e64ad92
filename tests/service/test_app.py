"""The application: faults and limits."""

import asyncio
import errno
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from moleflow_pl import MoLEFlow
from moleflow_pl.service import database as database_module
from moleflow_pl.service import state, watcher
from moleflow_pl.service.database import Database, Inspection
from moleflow_pl.service.models import load, publish
from tests.helpers.service import client_of, count, picture, settings_for, wait_until

Learned = tuple[Path, MoLEFlow]


LONG = 60  # seconds that nothing here takes, however busy the machine is


@contextmanager
def held_up(client: TestClient) -> Iterator[threading.Event]:
    """Let each batch wait until the end of the block; the event is set when the first begins."""
    predictor = client.service.engine.model.predictor  # type: ignore[attr-defined]
    quick, begun, go_on = predictor.inspect, threading.Event(), threading.Event()

    def slow(batch: list) -> list:
        begun.set()
        go_on.wait(LONG)
        return quick(batch)

    predictor.inspect = slow
    try:
        yield begun
    finally:
        go_on.set()


def test_of_more_than_the_queue_takes_the_rest_gets_429_at_once(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    content = picture(data_root)
    settings = settings_for(tmp_path, learned[0], queue=4, batch_size=2)
    with client_of(settings) as client, ThreadPoolExecutor(12) as pool:
        with held_up(client):
            asked = [pool.submit(client.post, "/v1/inspect", content=content) for _ in range(12)]
            wait_until(lambda: sum(one.done() for one in asked) == 8)  # the others were taken
        answers = [one.result(LONG) for one in asked]
        codes = [one.status_code for one in answers]
        assert (codes.count(200), codes.count(429)) == (4, 8)
        assert count(client.service.database, Inspection) == 4  # type: ignore[attr-defined]
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 429)
        assert client.post("/v1/inspect", content=content).status_code == 200


def test_an_answer_that_would_come_too_late_is_504_and_is_not_recorded(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    with client_of(settings_for(tmp_path, learned[0])) as client:
        service = client.service  # type: ignore[attr-defined]
        service.line.deadline = 0.5  # of the inspection alone: reading may take longer
        with held_up(client) as begun:
            assert client.post("/v1/inspect", content=picture(data_root)).status_code == 504
            assert begun.is_set()
        service.line.stop()  # the lane is done with it
        assert count(service.database, Inspection) == 0
        assert not [path for path in service.store.folder.rglob("*") if path.is_file()]


def test_files_beyond_the_limits_are_refused(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    with client_of(settings_for(tmp_path, learned[0], max_mb=1, max_pixels=1000)) as client:
        answer = client.post("/v1/inspect", content=bytes(2**20 + 1))
        assert (answer.status_code, "--max-mb" in answer.json()["detail"]) == (413, True)

        def without_length() -> object:
            yield from [bytes(2**19)] * 3

        assert client.post("/v1/inspect", content=without_length()).status_code == 413
        assert client.post("/v1/inspect", files={"a": bytes(2**20 + 1)}).status_code == 413
        assert client.post("/v1/inspect", files={"a": bytes(5 * 2**20)}).status_code == 413
        answer = client.post("/v1/inspect", content=picture(data_root))
        assert (answer.status_code, "--max-pixels" in answer.json()["detail"]) == (422, True)


def test_a_body_that_does_not_arrive_is_408(tmp_path: Path, learned: Learned) -> None:
    with client_of(settings_for(tmp_path, learned[0], deadline=0.2)) as client:
        sent: list[dict] = []

        async def receive() -> dict:
            await asyncio.sleep(60)
            return {}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/inspect", "query_string": b"",
            "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "http_version": "1.1",
        }  # fmt: skip
        asyncio.run(client.app(scope, receive, send))
        assert sent[0]["status"] == 408


def test_a_swap_under_load_fails_no_request(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    content = picture(data_root)
    with client_of(settings_for(tmp_path, learned[0])) as client, ThreadPoolExecutor(4) as pool:
        service = client.service  # type: ignore[attr-defined]
        changed = load(service.settings.model)
        asked = [pool.submit(client.post, "/v1/inspect", content=content) for _ in range(20)]
        object.__setattr__(changed, "digest", "other")
        service.engine.swap(changed)
        asked += [pool.submit(client.post, "/v1/inspect", content=content) for _ in range(20)]
        answers = [one.result() for one in asked]
        assert {one.status_code for one in answers} == {200}
        assert answers[-1].json()["model"] == "other"


def test_a_published_model_is_used_by_every_process(
    tmp_path: Path, learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL", 3600.0)  # the service itself does not look
    settings = settings_for(tmp_path, learned[0])
    with client_of(settings) as client:
        service = client.service  # type: ignore[attr-defined]
        first = service.engine.model.digest
        assert not service.watcher.look()
        other = tmp_path / "other.ckpt"
        other.write_bytes((learned[0] / "tasks" / "00-01.ckpt").read_bytes())
        publish(service.database, other, "ann")
        assert service.watcher.look()
        assert client.get("/v1/products").json()["model"] != first
        assert [one["name"] for one in client.get("/v1/products").json()["products"]] == ["01"]


def test_a_model_that_cannot_be_loaded_leaves_the_earlier_one_in_use(
    tmp_path: Path, learned: Learned, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL", 3600.0)
    with client_of(settings_for(tmp_path, learned[0])) as client:
        service = client.service  # type: ignore[attr-defined]
        broken = tmp_path / "broken.ckpt"
        broken.write_bytes(b"none")
        publish(service.database, broken, "ann")
        with pytest.raises(ValueError, match="checkpoint"):
            service.watcher.look()
        assert client.post("/v1/inspect", content=picture(data_root)).status_code == 200


def test_a_locked_database_is_503_and_answers_again_when_it_is_free(
    tmp_path: Path, learned: Learned, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def idle(*parts: object) -> None:
        """No other writer may hold the database when it is free."""

    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(state, "attend", idle)
    content = picture(data_root)
    with client_of(settings_for(tmp_path, learned[0])) as client:
        file = client.service.settings.database_url  # type: ignore[attr-defined]
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = client.post("/v1/inspect", content=content)
        assert (refused.status_code, "locked" in refused.json()["detail"]) == (503, True)
        other.execute("ROLLBACK")
        assert client.post("/v1/inspect", content=content).status_code == 200
        assert count(client.service.database, Inspection) == 1  # type: ignore[attr-defined]


def test_a_full_disk_is_503_and_nothing_is_recorded(
    tmp_path: Path, learned: Learned, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    content = picture(data_root)
    with client_of(settings_for(tmp_path, learned[0])) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            answer = client.post("/v1/inspect", content=content)
        assert (answer.status_code, "No space" in answer.json()["detail"]) == (503, True)
        assert count(client.service.database, Inspection) == 0  # type: ignore[attr-defined]
        assert client.post("/v1/inspect", content=content).status_code == 200


def test_a_service_that_is_stopping_refuses_what_it_has_not_taken(
    tmp_path: Path, learned: Learned, data_root: Path
) -> None:
    content = picture(data_root)
    with client_of(settings_for(tmp_path, learned[0])) as client, ThreadPoolExecutor(1) as pool:
        with held_up(client) as begun:
            taken = pool.submit(client.post, "/v1/inspect", content=content)
            assert begun.wait(LONG)
            client.service.line.stopping = True  # type: ignore[attr-defined]
            assert client.post("/v1/inspect", content=content).status_code == 503
            assert client.get("/readyz").status_code == 503
        assert taken.result(LONG).status_code == 200


def test_an_error_of_the_database_is_503_on_every_page_and_in_every_answer(
    tmp_path: Path, learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: object) -> object:
        raise OperationalError("", {}, Exception("the server closed the connection"))

    with client_of(settings_for(tmp_path, learned[0])) as client:
        found = re.search(r'name="form" value="(\w+)"', client.get("/products").text)
        assert found
        form = {"form": found[1], "verdict": "right"}
        for name in ("reading", "writing"):
            monkeypatch.setattr(Database, name, gone)
        gets = ("/", "/stream", "/inspections/1", "/products", "/reviews", "/v1/inspections")
        posts = ("/inspections/1/review", "/reviews/1/undo", "/products/b/drift", "/reviews/apply")
        answers = [client.get(path) for path in (*gets, "/v1/products/jobs")]
        answers += [client.post(path, data=form) for path in posts]
        for answer in answers:
            assert answer.status_code == 503, answer.url
            assert answer.headers["retry-after"] == "5"
            detail = "cannot use the database: the server closed the connection"
            assert answer.json() == {"detail": detail}
        monkeypatch.undo()
        assert client.get("/").status_code == 200
