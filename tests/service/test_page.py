import asyncio
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from moleflow_pl.service import page
from moleflow_pl.service.app import make_app
from moleflow_pl.service.database import Database
from moleflow_pl.service.page import ALLOWED, STATIC, recorded
from moleflow_pl.service.settings import Settings
from moleflow_pl.service.state import Service
from tests.helpers.reviewing import images_of, kept_run
from tests.helpers.service import an_inspection

HTMX = {"HX-Request": "true"}
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[TestClient]:
    """A browser at a service that has inspected six images of `b`."""
    where = tmp_path_factory.mktemp("line")
    service = Service(Settings(str(kept_run(where / "run")), device="cpu"))
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        for kind in ("good", "square"):
            for path in images_of(data_root, "b", kind):
                answer = client.post("/v1/inspect", content=path.read_bytes())
                assert answer.status_code == 200, answer.text
        yield client


def number_of(client: TestClient, label: str) -> int:
    """An inspection with a label."""
    return client.get("/v1/inspections", params={"label": label}).json()["inspections"][0]["id"]


def form_of(client: TestClient, number: int) -> str:
    """The hidden field of an inspection's page."""
    found = re.search(r'name="form" value="(\w+)"', client.get(f"/inspections/{number}").text)
    assert found
    return found[1]


def test_decisions_are_shown_with_shape_and_word(client: TestClient) -> None:
    text = client.get("/").text
    assert text.count('class="card"') == 6
    for label, word in (("normal", "normal"), ("anomalous", "anomalous")):
        assert re.search(rf'class="label {label}"><span class="shape".*?</span>{word}<', text)
    assert text.count('src="/v1/inspections/') == 6


def test_filters_leave_what_they_name(client: TestClient) -> None:
    one = client.get("/stream", params={"label": "normal"}).text
    shown = set(re.findall(r'class="label (\w+)"', one))
    assert shown == {"normal"}
    assert "No decision yet that fits" in client.get("/stream", params={"product": "x"}).text


def test_no_page_has_a_script_or_style_of_its_own(client: TestClient) -> None:
    for place in (
        "/",
        "/products",
        "/reviews",
        "/service",
        f"/inspections/{number_of(client, 'normal')}",
    ):
        answer = client.get(place)
        assert answer.status_code == 200
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert not re.search(r"<style|<script(?! src=)|\sstyle=|\son\w+=|hx-on", answer.text), place
    for name in ("page.css", "page.js", "htmx.min.js", "icon.svg"):
        assert client.get(f"/static/{name}").status_code == 200
    assert (STATIC / "htmx.LICENSE").read_text().startswith("Zero-Clause BSD")


def test_one_inspection_has_its_picture_map_and_history(client: TestClient) -> None:
    number = number_of(client, "anomalous")
    text = client.get(f"/inspections/{number}").text
    for part in ("preview.png", "heatmap.png"):
        assert client.get(f"/v1/inspections/{number}/{part}").status_code == 200
        assert f"/v1/inspections/{number}/{part}" in text
    assert 'class="history"' in text
    assert "threshold" in text
    assert f'href="/inspections/{number}"' in text
    assert client.get("/inspections/999").status_code == 404


def test_reviews_are_taken_and_undone_with_who_and_when(client: TestClient) -> None:
    number = number_of(client, "anomalous")
    form = form_of(client, number)
    url, said = f"/inspections/{number}/review", {"form": form, "who": "Ann <b>"}
    text = client.post(url, data={**said, "verdict": "false_alarm"}, headers=HTMX).text
    assert "<html" not in text
    assert re.search(r'value="false_alarm"[^>]* aria-pressed="true"', text)
    assert "by Ann &lt;b&gt;" in text
    (row,) = (client.get(f"/v1/inspections/{number}").json(),)
    assert (row["review"]["verdict"], row["review"]["who"]) == ("false_alarm", "Ann <b>")
    assert "False alarm" in client.get("/stream", params={"reviewed": "yes"}).text
    undo = re.search(r'action="(/reviews/\d+/undo)"', text)
    assert undo
    text = client.post(undo[1], data=said, headers=HTMX).text
    assert 'class="undone"' in text
    assert "aria-pressed" not in text
    assert client.get(f"/v1/inspections/{number}").json()["review"] is None


def test_without_a_script_a_review_leads_back_to_its_page(client: TestClient) -> None:
    number = number_of(client, "normal")
    answer = client.post(
        f"/inspections/{number}/review",
        data={"form": form_of(client, number), "verdict": "right"},
        follow_redirects=False,
    )
    assert (answer.status_code, answer.headers["location"]) == (303, f"/inspections/{number}")
    assert "by unnamed" in client.get(f"/inspections/{number}").text


@pytest.mark.parametrize("label", ["normal", "anomalous"])
def test_verdict_that_a_decision_cannot_have_is_refused(label: str, client: TestClient) -> None:
    number = number_of(client, label)
    wrong = {"normal": "false_alarm", "anomalous": "missed_defect"}[label]
    assert wrong not in ALLOWED[label]
    data = {"form": form_of(client, number), "verdict": wrong}
    assert client.post(f"/inspections/{number}/review", data=data).status_code == 422


def test_form_of_another_page_is_refused(client: TestClient) -> None:
    number = number_of(client, "normal")
    for place in (f"/inspections/{number}/review", "/reviews/1/undo", "/reviews/apply"):
        data = {"form": "0" * 64, "verdict": "right"}
        assert client.post(place, data=data).status_code == 403, place
    data = {"form": form_of(client, number), "verdict": "right"}
    foreign = {"origin": "http://evil.example"}
    place = f"/inspections/{number}/review"
    assert client.post(place, data=data, headers=foreign).status_code == 403


def test_products_are_counted(client: TestClient) -> None:
    images = client.get("/v1/inspections", params={"product": "b"}).json()["inspections"]
    rows = client.get("/products").text
    count = rf"<td>{len(images)}</td>"
    assert re.search(rf'<a href="/\?product=b">b</a></th>\s*{count}', rows)


def test_reviews_are_previewed_and_applied_and_the_service_swaps(client: TestClient) -> None:
    number = number_of(client, "normal")
    form = form_of(client, number)
    client.post(f"/inspections/{number}/review", data={"form": form, "verdict": "right"})
    assert re.search(r"<th scope=\"row\">b</th>", client.get("/reviews").text)
    told = client.get("/reviews/preview").text
    assert "1 more good images" in told
    before = client.get("/v1/products").json()
    answer = client.post("/reviews/apply", data={"form": form, "who": "Ann"}, headers=HTMX)
    assert "Applied: b." in answer.text
    service = client.app.state.service  # type: ignore[attr-defined]
    service.watcher.look()
    after = client.get("/v1/products").json()
    assert after["model"] != before["model"]
    assert "There are no reviews to apply" in client.get("/reviews").text
    assert client.get("/reviews/preview").status_code == 422
    undo = re.search(r'action="(/reviews/\d+/undo)"', client.get(f"/inspections/{number}").text)
    assert undo
    assert client.post(undo[1], data={"form": form}).status_code == 409


def test_names_are_text(client: TestClient) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    with service.database.writing() as session:
        session.add(an_inspection(image_name="<script>x</script>.png", product="<i>"))
    text = client.get("/").text
    assert "<script>x" not in text
    assert "&lt;script&gt;x&lt;/script&gt;.png" in text


def test_browser_hears_of_what_it_does_not_show_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LOOK", 0.001)
    database = Database(tmp_path / "line.sqlite")
    with database.writing() as session:  # one more than the page was rendered with
        session.add_all([an_inspection(), an_inspection()])
    state = SimpleNamespace(service=SimpleNamespace(line=SimpleNamespace(stopping=False)))
    looks = iter([False, False, False, True])

    async def is_disconnected() -> bool:
        return next(looks)

    request: Any = SimpleNamespace(
        app=SimpleNamespace(state=state), is_disconnected=is_disconnected
    )

    async def heard() -> list[str]:
        said = []
        async for event in recorded(request, database, last=1):
            said.append(event)
            with database.writing() as session:
                session.add(an_inspection())
        return said

    first, *rest = asyncio.run(heard())
    assert first.startswith(":")
    assert rest == [f"id: {i}\nevent: recorded\ndata: {i}\n\n" for i in (3, 4, 5)]


def test_every_decision_and_every_state_of_drift_has_a_colour_of_its_own() -> None:
    style = (STATIC / "page.css").read_text()
    for kinds in (
        ("normal", "anomalous", "unknown_product"),
        ("state-steady", "state-warning", "state-drift"),
    ):
        colours = [
            re.search(rf"\.{kind}(?:, [^{{]+)? {{ color: (var\(--\w+\))", style) for kind in kinds
        ]
        assert len({found[1] for found in colours if found}) == len(kinds), kinds


def test_a_person_brings_images_that_are_shown_like_all_others(
    client: TestClient, data_root: Path
) -> None:  # the last: the others count
    found = re.search(r'action="/inspect".*?name="form" value="(\w+)"', client.get("/").text, re.S)
    assert found
    path = images_of(data_root, "b", "good")[0]
    image = [("image", ("../brought.png", path.read_bytes(), "image/png"))]
    send = {"files": image, "headers": HTMX}
    assert client.post("/inspect", **send).status_code == 403  # no form of ours
    before = client.get("/").text.count('class="card"')
    answer = client.post("/inspect", data={"form": found[1]}, **send)
    assert (answer.status_code, answer.text) == (204, "")
    assert "brought.png" in client.get("/stream").text
    assert client.get("/").text.count('class="card"') == before + 1
    plain = client.post("/inspect", data={"form": found[1]}, files=image, follow_redirects=False)
    assert (plain.status_code, plain.headers["location"]) == (303, "/")
    none = client.post("/inspect", data={"form": found[1]}, files=[("image", ("", b"", "x/y"))])
    assert none.status_code == 422


def messages_of(address: str, folder: Path, width: int) -> list[str]:
    """What Chromium says on its console while it shows a page for some seconds."""
    result = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--timeout=3000",
            f"--window-size={width},900", "--enable-logging=stderr", "--log-level=0",
            f"--screenshot={folder / 'page.png'}", address,
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return [line for line in result.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1400])
def test_browser_opens_every_page_without_a_message(
    width: int, client: TestClient, tmp_path: Path
) -> None:
    app, number = client.app, number_of(client, "anomalous")
    with socket.create_server(("127.0.0.1", 0)) as place:
        # the service runs already: the client has started it
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, args=([place],), daemon=True)
        thread.start()
        here = f"http://127.0.0.1:{place.getsockname()[1]}"
        try:
            for page_of in ("/", f"/inspections/{number}", "/products", "/reviews", "/service"):
                assert messages_of(f"{here}{page_of}", tmp_path, width) == [], page_of
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_browser_would_tell_of_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "wrong.html").write_text("<!doctype html><script>x.y</script>")
    (said,) = messages_of((tmp_path / "wrong.html").as_uri(), tmp_path, 390)
    assert "x is not defined" in said
