"""Services on two machines with one PostgreSQL database, each in a process of its own."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from moleflow_pl.service.database import Database
from moleflow_pl.service.machine import NAME
from tests.helpers.commands import environment, moleflow
from tests.helpers.postgres import postgres
from tests.helpers.reviewing import images_of, kept_run
from tests.helpers.service import wait_until
from tests.helpers.serving import Server, serving

pytestmark = pytest.mark.slow


@pytest.fixture
def url() -> Iterator[str]:
    with postgres() as url:
        yield url


def on(machine: str, run: Path, url: str) -> Any:
    """A service on a machine."""
    return serving(run, f"--database={url}", **{NAME: machine})


def send(server: Server, image: Path) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/inspect", content=image.read_bytes(), timeout=60)
    return answer.raise_for_status().json()


def fill_in(server: Server, place: str, **values: str) -> httpx.Response:
    """Send a form of the page."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        found = re.search(r'name="form" value="([^"]+)"', client.get("/products").text)
        assert found
        return client.post(place, data={"form": found[1], **values})


def review(server: Server, sent: dict[str, Any]) -> None:
    """Say that the image is a good one."""
    verdict = "right" if sent["label"] == "normal" else "false_alarm"
    assert fill_in(server, f"/inspections/{sent['id']}/review", verdict=verdict).status_code == 303


def model(server: Server) -> str:
    return httpx.get(f"{server.url}/v1/products").json()["model"]


def text(server: Server, place: str) -> str:
    return httpx.get(f"{server.url}{place}", timeout=120).raise_for_status().text


def test_machines_that_share_the_run_review_apply_and_follow_drift_together(
    tmp_path: Path, data_root: Path, url: str
) -> None:
    run = kept_run(tmp_path / "run").parent
    with on("one", run, url) as one, on("two", run, url) as two:
        before = model(one)
        sent = [send(one, image) for image in images_of(data_root, "b", "good")[:3]]
        for answer in sent:
            review(two, answer)
        assert "more good images" in text(two, "/reviews/preview")
        with ThreadPoolExecutor(2) as pool:  # two apply at once: one is refused
            answers = list(pool.map(lambda it: fill_in(it, "/reviews/apply"), (one, two)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes in ([303, 409], [303, 422]), codes  # or it came after the first
        wait_until(lambda: before not in (model(one), model(two)), 60)
        assert model(one) == model(two)
        for server in (one, two):
            assert "There are no reviews to apply" in text(server, "/reviews")
            wait_until(lambda: "state-steady" in text(server, "/products"), 60)  # noqa: B023
            wait_until(lambda: {"one", "two"} <= machines(server), 60)  # noqa: B023
        changed = model(one)
        moleflow(tmp_path, "experts", "rollback", run, "b")
        wait_until(lambda: changed not in (model(one), model(two)), 60)
        assert "There are no reviews to apply" not in text(one, "/reviews")


def machines(server: Server) -> set[str]:
    """The machines that the page names."""
    return set(re.findall(r"<td>(\w+)</td>\s*</tr>", text(server, "/service/parts")))


def test_machines_that_do_not_share_the_run_are_told_what_they_cannot_do(
    tmp_path: Path, data_root: Path, url: str
) -> None:
    run = kept_run(tmp_path / "run").parent
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    other = Path(shutil.copytree(run, tmp_path / "other"))
    moleflow(tmp_path, "calibrate", other, "--false-alarm-rate=0.03")
    with on("one", run, url) as one:
        with on("two", copy, url) as two:
            review(two, send(one, images_of(data_root, "b", "good")[0]))
            assert "1 further review cannot be applied here" in text(two, "/reviews")
            refused = fill_in(two, "/reviews/apply")
            assert refused.status_code == 422
            assert "apply the reviews on the machine that has them" in refused.json()["detail"]
            assert fill_in(one, "/reviews/apply").status_code == 303
        stale = moleflow(
            tmp_path, "serve", other, "--port=0", f"--database={url}", fails=True,
            env=environment({NAME: "three"}),
        )  # fmt: skip
        assert "is not the model of the services on one" in stale.stdout + stale.stderr
        assert model(one) != ""


def test_a_lease_ends_by_the_clock_of_the_database(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(url)
    with database.reading() as session:
        before = database.now(session)
    monkeypatch.setattr("time.time", lambda: before + 3600)
    with database.reading() as session:
        assert before <= database.now(session) < before + 60
