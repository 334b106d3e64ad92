"""A running service follows its model's file and the versions in the database."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.errors import CheckpointError
from moleflow_pl.service import watcher
from moleflow_pl.service.applications import LOCK
from moleflow_pl.service.locks import exclusive
from moleflow_pl.service.machine import NAME
from moleflow_pl.service.models import add_version, newest
from moleflow_pl.service.settings import Settings
from tests.helpers.commands import moleflow
from tests.helpers.reviewing import images_of, kept_run
from tests.helpers.service import client_of, wait_until
from tests.helpers.serving import Server, serving


def change(path: Path) -> None:
    """Write another version of a checkpoint."""
    checkpoint = read_checkpoint(path)
    checkpoint[STATE_KEY]["seed"] += 1
    write_checkpoint(checkpoint, path)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Of a service that looks only when it is told to."""
    monkeypatch.setattr(watcher, "POLL", 3600.0)
    with client_of(Settings(str(kept_run(tmp_path / "run").parent))) as client:
        yield client


def model(client: Any) -> str:
    return client.get("/v1/products").json()["model"]


def test_a_file_that_has_changed_is_published_and_used(client: Any, tmp_path: Path) -> None:
    service, before = client.service, model(client)
    assert not service.watcher.look()
    change(tmp_path / "run" / "last.ckpt")
    assert service.watcher.look()
    assert model(client) != before
    with service.database.reading() as session:
        row = newest(session)
    assert (row.digest, row.who) == (model(client), "service")
    assert not service.watcher.look()


def test_a_file_that_someone_is_changing_is_left_to_them(client: Any, tmp_path: Path) -> None:
    service = client.service
    change(tmp_path / "run" / "last.ckpt")
    with exclusive(service.database, LOCK):
        assert not service.watcher.look()
    assert service.watcher.look()


def test_a_file_that_is_damaged_or_gone_leaves_the_earlier_model_in_use(
    client: Any, tmp_path: Path
) -> None:
    service, before = client.service, model(client)
    file = tmp_path / "run" / "last.ckpt"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        service.watcher.look()
    file.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        service.watcher.look()
    assert model(client) == before
    file.write_bytes(content)
    assert not service.watcher.look()


def test_a_machine_whose_file_is_another_does_not_publish_it(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, before = client.service, model(client)
    file = tmp_path / "run" / "last.ckpt"
    monkeypatch.setenv(NAME, "elsewhere")
    with service.database.writing() as session:
        published = add_version(session, file, "0" * 64, "ann")  # of its own file
    monkeypatch.delenv(NAME)
    with pytest.raises(CheckpointError, match="not the version that elsewhere published"):
        service.watcher.look()
    with service.database.reading() as session:
        assert newest(session).id == published.id
    assert model(client) == before


def test_what_is_wrong_is_told_until_it_is_not(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL", 0.01)
    follower = client.service.watcher
    file = tmp_path / "run" / "last.ckpt"
    moved = file.rename(file.with_name("moved"))

    async def follow() -> None:
        task = asyncio.create_task(follower.run())
        while follower.health.ok:
            await asyncio.sleep(0.01)
        moved.rename(file)
        while not follower.health.ok:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(follow(), 30))


def review_and_apply(server: Server, image: Path) -> None:
    """As a browser does it: the only image is a good one."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        sent = client.post("/v1/inspect", content=image.read_bytes()).raise_for_status().json()
        page = client.get(f"/inspections/{sent['id']}").text
        found = re.search(r'name="form" value="([^"]+)"', page)
        assert found
        verdict = "right" if sent["label"] == "normal" else "false_alarm"
        for place, values in (
            (f"/inspections/{sent['id']}/review", {"verdict": verdict}),
            ("/reviews/apply", {}),
        ):
            answer = client.post(place, data={"form": found[1], **values})
            assert answer.status_code == 303, answer.text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_running_service_notices_rollback_and_calibration_from_the_command_line(
    workers: int, tmp_path: Path, data_root: Path
) -> None:
    run = kept_run(tmp_path / "run").parent
    with serving(run, f"--workers={workers}") as server:

        def model() -> str:
            return httpx.get(f"{server.url}/v1/products").json()["model"]

        def waits() -> bool:
            return "There are no reviews to apply" not in httpx.get(f"{server.url}/reviews").text

        models = [model()]
        review_and_apply(server, images_of(data_root, "b", "good")[0])
        assert not waits()
        for args in (
            ("experts", "rollback", run, "b"),
            ("calibrate", run, "--false-alarm-rate=0.02"),
        ):
            wait_until(lambda: model() not in models, 60)
            models.append(model())
            moleflow(tmp_path, *args)
            wait_until(waits, 60)
        wait_until(lambda: len({model() for _ in range(10)} - set(models)) == 1, 60)
        assert "Traceback" not in server.output
