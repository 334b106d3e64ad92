"""Nothing blocks the event loop, which all requests share."""

import asyncio
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from moleflow_pl.service.app import make_app
from moleflow_pl.service.products import jobs
from moleflow_pl.service.settings import TOKEN, Settings
from moleflow_pl.service.state import Service
from tests.helpers.blocking import blocking_calls
from tests.helpers.reviewing import images_of, kept_run
from tests.helpers.service import wait_until

SECRET = "0123456789abcdef-secret"
NOT_ASKED = {"/events", "/openapi.json", "/static"}  # without an end; without a service


def form_of(client: TestClient, page: str) -> dict[str, str]:
    found = re.search(r'name="form" value="(\w+)"', client.get(page).text)
    assert found
    return {"form": found[1], "who": "Ann"}


def paths_of(client: TestClient, *methods: str) -> set[str]:
    """The paths of the routes that take some methods; by default of all."""
    routes = []
    for one in client.app.routes:  # type: ignore[attr-defined]
        routes += [one] if hasattr(one, "path") else one.original_router.routes
    return {
        one.path
        for one in routes
        if not methods or {*methods} & (getattr(one, "methods", None) or set())
    }


def ask_all(client: TestClient, image: bytes, folder: Path) -> set[str]:
    """Send a request to every route; return the routes."""
    form, file = form_of(client, "/products"), [("image", ("a.png", image))]
    asked: list[tuple[str, str, dict]] = [
        ("POST", "/v1/inspect", {"content": image, "params": {"heatmap": "inline"}}),
        ("POST", "/v1/inspect", {"files": [*file, ("image", ("b.png", b"none"))]}),
        ("POST", "/inspect", {"data": form, "files": file}),
        ("POST", "/inspections/{number}/review", {"data": {**form, "verdict": "other_product"}}),
        ("POST", "/reviews/{number}/undo", {"data": form}),
        ("POST", "/inspections/{number}/review", {"data": {**form, "verdict": "right"}}),
        ("GET", "/reviews/preview", {}),
        ("POST", "/reviews/apply", {"data": form}),
        ("POST", "/products/{name}/drift", {"data": form}),
        ("POST", "/v1/products", {"data": {"name": "x"}, "files": file * 2}),
        ("POST", "/products", {"data": {**form, "name": "y", "folder": str(folder)}}),
        ("POST", "/login", {"data": {"token": "wrong"}}),
    ]
    for method, path, options in asked:
        answer = client.request(method, path.format(number=1, name="b"), **options)
        assert answer.status_code < 500, answer.text
    readable = paths_of(client, "GET") - NOT_ASKED
    for path in sorted(readable):
        assert client.get(path.format(number=1, name="b")).status_code < 500, path
    return readable | {path for _, path, _ in asked} | NOT_ASKED


def test_no_route_source_sink_or_background_task_blocks_the_event_loop(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.setattr("sys.executable", "/bin/false")  # learns nothing, and soon
    monkeypatch.setattr("moleflow_pl.service.drift.SETTLED", 0.0)
    inbox, good = tmp_path / "in", images_of(data_root, "b", "good")
    inbox.mkdir()
    settings = Settings(
        str(kept_run(tmp_path / "run")), device="cpu", host="0.0.0.0", move_inspected=True,
        sources=[f"folder:{inbox}"],
        sinks=[f"csv:{tmp_path / 'line.csv'}", "webhook:http://127.0.0.1:1/nobody"],
    )  # fmt: skip
    service = Service(settings)
    headers = {"authorization": f"Bearer {SECRET}"}
    with (
        blocking_calls(tmp_path) as found,
        TestClient(make_app(service), base_url="http://127.0.0.1", headers=headers) as client,
    ):
        (inbox / "a.png").write_bytes(good[0].read_bytes())
        (inbox / "b.png").write_bytes(b"none")
        asked = ask_all(client, good[1].read_bytes(), good[0].parent)
        wait_until(lambda: (inbox / "inspected" / "a.png").exists())
        wait_until(lambda: {job.state for job in jobs(service.database)} == {"failed"})
        wait_until(lambda: not service.sinks[1].health.ok)
    assert not found, "\n".join(found)
    assert asked >= paths_of(client)


def test_a_call_that_blocks_is_found(tmp_path: Path) -> None:
    async def block() -> None:
        (tmp_path / "a").write_bytes(b"")
        (tmp_path / "a").exists()
        await asyncio.to_thread((tmp_path / "b").write_bytes, b"")

    with blocking_calls(tmp_path) as found:
        asyncio.run(block())
        (tmp_path / "c").write_bytes(b"")
    assert [one.split()[0] for one in found] == ["open", "stat"]
