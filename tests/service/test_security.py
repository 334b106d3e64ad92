"""Who may ask, from where, and how often."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from moleflow_pl import MoLEFlow
from moleflow_pl.service import security
from moleflow_pl.service.database import Audit
from moleflow_pl.service.security import Rates
from moleflow_pl.service.settings import TOKEN
from tests.helpers.service import client_of, picture, settings_for

SECRET = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, learned: tuple[Path, MoLEFlow]
) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, SECRET)
        settings = settings_for(tmp_path_factory.mktemp("guarded"), learned[0], host="0.0.0.0")
        with client_of(settings, follow_redirects=False) as client:
            yield client


@pytest.fixture(scope="module")
def own(
    tmp_path_factory: pytest.TempPathFactory, learned: tuple[Path, MoLEFlow]
) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(TOKEN, raising=False)
        with client_of(settings_for(tmp_path_factory.mktemp("own"), learned[0])) as client:
            yield client


def test_every_answer_but_that_of_health_needs_the_token(guarded: TestClient) -> None:
    paths = ["/docs", "/openapi.json", "/", "/nothing", *guarded.app.openapi()["paths"]]  # type: ignore[attr-defined]
    for path in {one.replace("{number}", "1") for one in paths} - {"/healthz", "/readyz", "/login"}:
        if path.startswith("/static"):
            continue
        for method in ("GET", "POST"):
            assert guarded.request(method, path).status_code == 401, path
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/readyz").json() == {"ready": True}


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer x", f"Basic {SECRET}", f"Bearer {SECRET}x"]
)
def test_another_token_is_refused(guarded: TestClient, value: str) -> None:
    answer = guarded.get("/v1/products", headers={"authorization": value})
    assert answer.status_code == 401
    assert SECRET not in answer.text


def test_the_token_opens_all_of_it(guarded: TestClient, data_root: Path) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    answer = guarded.post("/v1/inspect", content=picture(data_root), headers=headers)
    assert answer.status_code == 200
    assert "model" in guarded.get("/readyz", headers=headers).json()


def refusals(client: TestClient) -> int:
    with client.service.database.reading() as session:  # type: ignore[attr-defined]
        return list(session.scalars(select(Audit.action))).count("token refused")


def test_a_person_gives_the_token_once_and_a_wrong_one_is_noted(guarded: TestClient) -> None:
    before = refusals(guarded)
    sent = guarded.get("/v1/products", headers={"accept": "text/html"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/login")
    page = guarded.get("/login")
    form = page.text.split('name="form" value="')[1].split('"')[0]
    assert guarded.post("/login", data={"token": SECRET, "form": "x"}).status_code == 401
    assert guarded.post("/login", data={"token": "x", "form": form}).status_code == 401
    answer = guarded.post("/login", data={"token": SECRET, "form": form})
    cookie = answer.headers["set-cookie"].lower()
    assert (answer.status_code, "httponly" in cookie, "samesite=strict" in cookie) == (303,) + (
        True,
    ) * 2
    assert SECRET not in cookie
    assert guarded.get("/v1/products").status_code == 200
    guarded.cookies.clear()
    assert refusals(guarded) == before + 2


def test_a_client_that_guesses_too_often_learns_of_no_token_whether_it_is_right(
    guarded: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded.service, "logins", Rates(0.001))  # type: ignore[attr-defined]
    form = guarded.get("/login").text.split('name="form" value="')[1].split('"')[0]
    tried = [guarded.post("/login", data={"token": t, "form": form}) for t in ("x", SECRET)]
    assert [answer.status_code for answer in tried] == [401, 429]
    assert "set-cookie" not in tried[1].headers
    guarded.cookies.clear()


def test_a_form_counts_only_from_a_page_that_this_visitor_saw(guarded: TestClient) -> None:
    form = guarded.get("/login").text.split('name="form" value="')[1].split('"')[0]
    guarded.cookies.clear()
    assert guarded.post("/login", data={"token": SECRET, "form": form}).status_code == 401


def test_a_page_of_another_site_cannot_send_anything(own: TestClient, data_root: Path) -> None:
    content = picture(data_root)
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"},
                    {"sec-fetch-site": "cross-site"}):  # fmt: skip
        assert own.post("/v1/inspect", content=content, headers=headers).status_code == 403
    same = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
    assert own.post("/v1/inspect", content=content, headers=same).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("localhost:8420", 200),
     ("[::1]:8420", 200)],
)  # fmt: skip
def test_without_a_token_only_names_of_this_machine_are_answered(
    own: TestClient, host: str, status: int
) -> None:
    assert own.get("/v1/products", headers={"host": host}).status_code == status


def test_answers_allow_no_script_of_others_and_none_inline(own: TestClient) -> None:
    for path in ("/docs", "/v1/products", "/nothing"):
        headers = own.get(path).headers
        assert "unsafe" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes for the rates."""
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.mark.usefixtures("stopped")
def test_a_client_that_asks_too_often_gets_429_and_others_do_not() -> None:
    rates = Rates(1.0)
    assert [rates.allow("a") for _ in range(4)] == [True, True, False, False]
    assert rates.allow("b")


@pytest.mark.usefixtures("stopped")
def test_the_rate_is_that_of_the_option(tmp_path: Path, learned: tuple[Path, MoLEFlow]) -> None:
    with client_of(settings_for(tmp_path, learned[0], rate=1.0)) as client:
        codes = [client.get("/healthz").status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]


def test_names_do_nothing_on_a_page_or_in_an_answer(own: TestClient, data_root: Path) -> None:
    name = "<script>alert(1)</script>.png"
    answer = own.post("/v1/inspect", params={"name": name}, content=picture(data_root))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["image"] == "script>.png"
    refused = own.post("/v1/inspect", params={"product": "\x1b[31m"}, content=picture(data_root))
    assert "\x1b" not in refused.json()["detail"]
