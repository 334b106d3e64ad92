"""How a source or a sink is, and what keeps it going."""

import asyncio
from pathlib import Path

import pytest

from moleflow_pl.service import health as module
from moleflow_pl.service.database import Database
from moleflow_pl.service.health import Health, attend
from moleflow_pl.service.locks import exclusive


async def during(job: object, true: object, seconds: float = 5) -> None:
    """Run a job until something is true."""
    task = asyncio.create_task(job)  # type: ignore[arg-type]
    async with asyncio.timeout(seconds):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_fails_is_told_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "wait_after", lambda failures: 0.01)
    health, told = Health("camera:0"), []

    async def fail() -> None:
        told.append((health.ok, health.detail))
        raise OSError("the cable is out")

    database = Database(tmp_path / "line.sqlite")
    asyncio.run(during(attend(database, "x", health, fail), lambda: len(told) > 2))
    assert told[:2] == [(True, "starting"), (False, "the cable is out")]


def test_of_several_processes_one_attends_to_a_thing_and_the_next_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    database, health, runs = Database(tmp_path / "line.sqlite"), Health("folder:/in"), []

    async def run() -> None:
        runs.append(1)
        await asyncio.sleep(60)

    held = exclusive(database, "x")
    held.__enter__()
    asyncio.run(
        during(attend(database, "x", health, run), lambda: health.detail.startswith("another"))
    )
    assert (runs, health.ok) == ([], True)
    held.__exit__(None, None, None)
    asyncio.run(during(attend(database, "x", health, run), lambda: runs))
    with exclusive(database, "x"):  # given back at the end
        pass
