"""All parts of a running service."""

import asyncio
import shutil
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from moleflow_pl.service.database import Outbox
from moleflow_pl.service.state import Service
from tests.helpers.service import client_of, count, during, picture, settings_for, wait_until


def test_each_sink_is_told_of_each_inspection(
    tmp_path: Path, learned: tuple[Path, MoLEFlow], data_root: Path
) -> None:
    sinks = [f"csv:{tmp_path / 'line.csv'}", "webhook:http://127.0.0.1:1/nobody"]
    with client_of(settings_for(tmp_path, learned[0], sinks=sinks)) as client:
        for _ in range(2):
            client.post("/v1/inspect", content=picture(data_root))
        service = client.service  # type: ignore[attr-defined]
        assert count(service.database, Outbox) == 4
        path = tmp_path / "line.csv"
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) == 3)
        wait_until(lambda: not service.sinks[1].health.ok)
        told = {one["name"]: one["ok"] for one in client.get("/readyz").json()["sinks"]}
        assert told == {sinks[0]: True, sinks[1]: False}


def test_a_service_needs_nothing_but_the_checkpoint(
    tmp_path: Path, learned: tuple[Path, MoLEFlow], data_root: Path
) -> None:
    settings = settings_for(tmp_path, learned[0], database=str(tmp_path / "elsewhere.sqlite"))
    with client_of(settings) as client:
        assert client.post("/v1/inspect", content=picture(data_root)).json()["id"] == 1
    shutil.rmtree(tmp_path / "run" / "service")
    with client_of(settings) as client:
        assert client.post("/v1/inspect", content=picture(data_root)).json()["id"] == 2


def test_background_tasks_that_work_again_after_a_failure_say_so(
    tmp_path: Path, learned: tuple[Path, MoLEFlow]
) -> None:
    service = Service(settings_for(tmp_path, learned[0]))
    for part in service.background:
        part.health.set_state(False, "the database is locked")
        asyncio.run(during(part.run(), lambda health=part.health: health.ok))
    service.line.stop()


def test_drift_is_followed_and_told_in_the_metrics(
    tmp_path: Path, learned: tuple[Path, MoLEFlow], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moleflow_pl.service.drift.POLL", 0.01)
    monkeypatch.setattr("moleflow_pl.service.drift.SETTLED", 0.0)
    with client_of(settings_for(tmp_path, learned[0])) as client:
        client.post("/v1/inspect", content=picture(data_root))
        wait_until(lambda: 'moleflow_drift{product="b"} 0.0' in client.get("/metrics").text)
        parts = client.get("/readyz").json()["background"]
        assert {one["name"]: one["ok"] for one in parts} == {
            "drift": True,
            "learning": True,
            "images": True,
        }
        assert 'class="drift state-steady"' in client.get("/products").text
