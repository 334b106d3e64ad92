"""Limits for the bodies of all requests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from moleflow_pl.service.app import make_app
from moleflow_pl.service.body_limits import FORM_BYTES, BodyLimits
from moleflow_pl.service.settings import MEBIBYTE, Settings
from moleflow_pl.service.state import Service
from tests.helpers.reviewing import kept_run

FORMS = (
    "/login", "/inspections/1/review", "/reviews/1/undo", "/products/b/drift", "/reviews/apply",
)  # fmt: skip
UPLOADS = ("/v1/inspect", "/inspect", "/v1/products", "/products")
FORM = [(b"content-type", b"multipart/form-data; boundary=x")]
KIND = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    run = kept_run(tmp_path_factory.mktemp("line") / "run")
    service = Service(Settings(str(run), device="cpu", max_mb=1, queue=8))
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        yield client


def parts_of(size: int) -> Iterator[bytes]:
    yield from [bytes(2**16)] * (size // 2**16 + 1)


@pytest.mark.parametrize("path", [*FORMS, *UPLOADS])
def test_body_that_is_too_large_is_refused_whether_it_names_its_length_or_not(
    path: str, client: TestClient
) -> None:
    size = FORM_BYTES if path in FORMS else 4 * MEBIBYTE
    for content in (bytes(size + 1), parts_of(size)):
        answer = client.post(path, content=content, headers=KIND)
        assert answer.status_code == 413, answer.text


@pytest.mark.parametrize("path", ["/v1/inspect", "/inspect"])
def test_image_is_limited_to_its_own_size_and_a_form_of_several_to_more(
    path: str, client: TestClient
) -> None:
    large, form = bytes(MEBIBYTE + 1), {"content-type": "multipart/form-data; boundary=x"}
    for content in (large, parts_of(MEBIBYTE)):
        assert client.post(path, content=content).status_code == 413
    assert client.post(path, content=large, headers=form).status_code == 422  # it was read


@pytest.mark.parametrize("path", [*FORMS, *UPLOADS])
def test_body_that_does_not_arrive_is_408(
    path: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive() -> dict:
        await asyncio.sleep(3600)
        return {}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr("moleflow_pl.service.body_limits.PRODUCT_SECONDS", 0.1)
    service = client.app.state.service  # type: ignore[attr-defined]
    settings = Settings(service.settings.model, device="cpu", deadline=0.1)
    monkeypatch.setattr(service, "settings", settings)
    app = make_app(service)
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "http_version": "1.1",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", KIND["content-type"].encode())],
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408


class Sender:
    """A client that sends parts when the test says so.

    Attributes:
        status: Of the response; None before.
    """

    def __init__(self, app: BodyLimits, path: str = "/v1/inspect") -> None:
        self.status: int | None = None
        self.parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": FORM}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict:
        body, more = await self.parts.get()
        return {"type": "http.request", "body": body, "more_body": more}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)

    async def bring(self, body: bytes, more: bool = True) -> None:
        """Send a part, and let the application take it."""
        await self.parts.put((body, more))
        while not self.parts.empty():
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)


def reading(settings: Settings, answer: asyncio.Event) -> BodyLimits:
    """An application that reads a body, and answers after an event."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.exceptions import HTTPException

        try:
            await Request(scope, receive).body()
        except HTTPException as error:
            await PlainTextResponse("", error.status_code)(scope, receive, send)
            return
        await answer.wait()
        await PlainTextResponse("")(scope, receive, send)

    return BodyLimits(app, settings)


def test_bodies_together_need_no_more_than_the_room_and_leave_it_with_their_answer(
    tmp_path: Path,
) -> None:
    async def fill() -> None:
        answer = asyncio.Event()
        app = reading(Settings(str(tmp_path), max_mb=1, queue=1), answer)
        idle = [Sender(app) for _ in range(1000)]  # they send nothing, and need nothing
        large = [Sender(app), Sender(app)]
        for one in large:
            await one.bring(bytes(4 * MEBIBYTE), more=False)
        assert (app.held, app.room) == (8 * MEBIBYTE, 8 * MEBIBYTE)
        late = Sender(app)
        await late.bring(b"x")
        await late.task
        assert (late.status, app.held) == (429, 8 * MEBIBYTE)
        answer.set()
        await asyncio.gather(*(one.task for one in large))
        assert ([one.status for one in large], app.held) == ([200, 200], 0)
        again = Sender(app)
        await again.bring(b"x", more=False)
        await again.task
        assert again.status == 200
        for one in idle:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in idle), return_exceptions=True)

    asyncio.run(fill())


def test_deadline_of_a_body_does_not_end_the_wait_for_its_answer(tmp_path: Path) -> None:
    async def answered() -> None:
        app = reading(Settings(str(tmp_path), deadline=0.05), answer := asyncio.Event())
        sender = Sender(app)
        await sender.bring(b"x", more=False)
        await asyncio.sleep(0.1)
        answer.set()
        await sender.task
        assert sender.status == 200

    asyncio.run(answered())
