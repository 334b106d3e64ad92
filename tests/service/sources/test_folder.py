"""A watched folder."""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.service.database import Database, Inspection, SeenFile
from moleflow_pl.service.parts import Reporter
from moleflow_pl.service.sources import folder as module
from moleflow_pl.service.state import Service
from tests.helpers.service import (
    an_inspection,
    client_of,
    count,
    picture,
    settings_for,
    wait_until,
)

Learned = tuple[Path, MoLEFlow]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLED", 0.1)
    monkeypatch.setattr(module, "TICK", 0.02)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return sorted(session.scalars(select(Inspection.image_name)))


def test_files_are_inspected_once_also_after_a_restart(
    tmp_path: Path, inbox: Path, learned: Learned, data_root: Path
) -> None:
    settings = settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"])
    content = picture(data_root)
    (inbox / "before.png").write_bytes(content)
    (inbox / ".hidden.png").write_bytes(content)
    (inbox / "writing.png.part").write_bytes(content)
    with client_of(settings) as client:
        database = client.service.database  # type: ignore[attr-defined]
        wait_until(lambda: names(database) == ["before.png"])
        (inbox / "after.png").write_bytes(content)
        wait_until(lambda: names(database) == ["after.png", "before.png"])
        assert client.get("/readyz").json()["sources"][0]["ok"]
    (inbox / "meanwhile.png").write_bytes(content)
    with client_of(settings) as client:
        database = client.service.database  # type: ignore[attr-defined]
        wait_until(lambda: len(names(database)) > 2)
        # the same name with another content is another image
        (inbox / "after.png").write_bytes(picture(data_root, kind="square"))
        wait_until(lambda: len(names(database)) > 3)
        assert names(database) == ["after.png", "after.png", "before.png", "meanwhile.png"]
        assert count(database, SeenFile) == 4


def test_a_half_written_file_is_waited_for(
    tmp_path: Path, inbox: Path, learned: Learned, data_root: Path
) -> None:
    content = picture(data_root)
    settings = settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"])
    with client_of(settings) as client, (inbox / "slow.png").open("wb") as file:
        file.write(content[:-200])
        file.flush()
        time.sleep(0.6)  # longer than a file takes to settle
        database = client.service.database  # type: ignore[attr-defined]
        assert count(database, SeenFile) == 0
        file.write(content[-200:])
        file.flush()
        wait_until(lambda: names(database) == ["slow.png"])


def test_a_file_that_is_no_image_is_told_and_holds_up_nobody(
    tmp_path: Path, inbox: Path, learned: Learned, data_root: Path
) -> None:
    bad = inbox / "a.txt"
    bad.write_text("no image")
    os.utime(bad, (1, 1))
    (inbox / "b.png").write_bytes(picture(data_root))
    settings = settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"])
    with client_of(settings) as client:
        database = client.service.database  # type: ignore[attr-defined]
        wait_until(lambda: count(database, SeenFile) == 2)
        assert names(database) == ["b.png"]
        with database.reading() as session:
            errors = [error for error in session.scalars(select(SeenFile.error)) if error]
        assert len(errors) == 1
        assert "cannot identify" in errors[0]


def test_inspected_files_are_moved_if_that_is_set_and_none_is_overwritten(
    tmp_path: Path, inbox: Path, learned: Learned, data_root: Path
) -> None:
    settings = settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"], move_inspected=True)
    with client_of(settings) as client:
        database = client.service.database  # type: ignore[attr-defined]
        for i in (1, 2):
            (inbox / "a.png").write_bytes(picture(data_root, number=i))
            wait_until(
                lambda i=i: count(database, Inspection) == i and not (inbox / "a.png").exists()
            )  # type: ignore[misc]
    assert sorted(path.name for path in (inbox / "inspected").iterdir()) == ["a.png", "a~1.png"]


def test_another_process_that_was_first_is_no_error(
    tmp_path: Path, inbox: Path, learned: Learned, data_root: Path
) -> None:
    settings = settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"])
    file = inbox / "a.png"
    file.write_bytes(picture(data_root))
    service = Service(settings)
    source = service.sources[0]
    state = module.FileState.of(file)
    assert state is not None
    with service.database.writing() as session:
        session.add(source._seen_row(state))  # type: ignore[attr-defined]
    asyncio.run(source._inspect(state))  # type: ignore[attr-defined]
    assert count(service.database, Inspection) == 0
    service.line.stop()


def test_a_folder_that_does_not_exist_is_told_at_the_start(
    tmp_path: Path, learned: Learned
) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        Service(settings_for(tmp_path, learned[0], sources=["folder:/no/such"]))


def test_source_that_ends_while_it_records_leaves_the_recorder_alive(
    tmp_path: Path, inbox: Path, learned: Learned
) -> None:
    (inbox / "a.txt").write_text("no image")
    os.utime(inbox / "a.txt", (1, 1))
    service = Service(settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"]))
    recorder, added = service.line.recorder, list[Any]()
    add = recorder.add

    def noted(*rows: Any) -> Any:
        added.append(add(*rows))
        return added[-1]

    recorder.add = noted  # type: ignore[method-assign]

    async def ended() -> None:
        with service.database.writing():
            add(an_inspection())  # what the recorder is busy with
            running = asyncio.create_task(service.sources[0].run())
            while not added:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(ended())
    recorder.add(an_inspection()).result(60)
    assert recorder.alive
    service.line.stop()


def test_file_that_cannot_be_moved_is_reported_and_holds_up_nobody(
    tmp_path: Path, inbox: Path, learned: Learned, data_root: Path
) -> None:
    (inbox / "inspected").write_text("in the way")
    settings = settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"], move_inspected=True)
    for name in ("a.png", "b.png"):
        (inbox / name).write_bytes(picture(data_root))
    with client_of(settings) as client:
        service = client.service  # type: ignore[attr-defined]
        wait_until(lambda: names(service.database) == ["a.png", "b.png"])
        wait_until(lambda: "cannot be moved" in service.sources[0].health.detail)
        (inbox / "c.png").write_bytes(picture(data_root))
        wait_until(lambda: len(names(service.database)) == 3)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_whose_names_are_not_utf8_are_inspected_once_without_an_error(
    tmp_path: Path, inbox: Path, learned: Learned, data_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = picture(data_root)
    settings = settings_for(tmp_path, learned[0], sources=[f"folder:{inbox}"])
    caplog.set_level(logging.INFO, "moleflow_pl")
    with client_of(settings) as client:
        service = client.service  # type: ignore[attr-defined]
        time.sleep(module.SOON + 0.5)  # later a file is noticed by the watch alone
        for i, name in enumerate((b"\xfe.png", b"\xff.png"), start=1):
            (inbox / os.fsdecode(name)).write_bytes(content)
            wait_until(lambda i=i: len(names(service.database)) == i)  # type: ignore[misc]
        (inbox / "a.png").write_bytes(content)
        wait_until(lambda: len(names(service.database)) == 3)
        health = service.sources[0].health
        assert health.ok
        Reporter(service.database, {"sources": [health]}).look()
    with client_of(settings) as client:
        service = client.service  # type: ignore[attr-defined]
        (inbox / "b.png").write_bytes(content)
        wait_until(lambda: "b.png" in names(service.database))
        assert names(service.database) == [r"\udcfe.png", r"\udcff.png", "a.png", "b.png"]
    assert not [said for said in caplog.messages if "folder:" in said]
