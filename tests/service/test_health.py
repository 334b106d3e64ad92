"""How a source or a sink is, and what keeps it going."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moleflow_pl.service import health as module
from moleflow_pl.service.database import Database
from moleflow_pl.service.health import Background, Health, attend
from moleflow_pl.service.locks import acquire, exclusive
from tests.helpers.service import during


def test_what_fails_is_told_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "wait_after", lambda failures: 0.01)
    health, told = Health("camera:0"), []

    async def fail() -> None:
        told.append((health.ok, health.detail))
        raise OSError("the cable is out")

    database = Database(tmp_path / "line.sqlite")
    asyncio.run(during(attend(database, Background(health, "x", fail)), lambda: len(told) > 2))
    assert told[:2] == [(True, "running"), (False, "the cable is out")]


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
        during(
            attend(database, Background(health, "x", run)),
            lambda: health.detail.startswith("another"),
        )
    )
    assert (runs, health.ok) == ([], True)
    held.__exit__(None, None, None)
    asyncio.run(during(attend(database, Background(health, "x", run)), lambda: runs))
    with exclusive(database, "x"):  # given back at the end
        pass


def test_waits_grow_with_each_failure_and_restart_only_after_a_good_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, waits = [0.0], list[float]()
    runs = iter([0.0, 1.0, 0.0, module.LONGEST_WAIT + 1, 0.0, 0.0])  # seconds; 1.0 returns

    async def run() -> None:
        seconds = next(runs, None)
        if seconds is None:
            await asyncio.sleep(3600)
        clock[0] += seconds or 0.0
        if seconds != 1.0:
            raise OSError("the cable is out")

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds
        await asyncio.get_running_loop().run_in_executor(None, int)

    ours = SimpleNamespace(monotonic=lambda: clock[0], time=lambda: clock[0])
    monkeypatch.setattr(module, "time", ours)
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=wait))
    database = Database(tmp_path / "line.sqlite")
    asyncio.run(
        during(attend(database, Background(Health("camera:0"), "x", run)), lambda: len(waits) == 6)
    )
    assert waits == [0.5, 1.0, 2.0, 0.5, 1.0, 2.0]


def test_lock_is_released_also_if_the_end_comes_while_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "line.sqlite")
    began, go_on = threading.Event(), threading.Event()

    def slow(*parts: Any) -> None:
        began.set()
        assert go_on.wait(60)
        acquire(*parts)

    async def cancelled() -> None:
        task = asyncio.create_task(
            attend(database, Background(Health("y"), "x", lambda: asyncio.sleep(60)))
        )
        await asyncio.to_thread(began.wait, 60)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(task, return_exceptions=True)

    monkeypatch.setattr("moleflow_pl.service.locks.acquire", slow)
    asyncio.run(cancelled())
    monkeypatch.undo()
    with exclusive(database, "x"):
        pass


def test_parts_that_hang_at_the_database_hold_up_no_other(tmp_path: Path) -> None:
    database = Database(tmp_path / "line.sqlite")

    async def beside() -> int:
        names = [f"camera:{i}" for i in range(12)]
        never = [
            attend(database, Background(Health(name), name, lambda: asyncio.sleep(60)))
            for name in names
        ]
        with database.writing():  # all wait for it to take their locks
            tasks = [asyncio.create_task(one) for one in never]
            await asyncio.sleep(0.05)
            answer = await asyncio.to_thread(lambda: 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return answer

    assert asyncio.run(beside()) == 1


def test_any_database_takes_what_a_part_tells() -> None:
    health = Health("folder:/in")
    health.set_state(False, "\udcff.png\nis gone")
    assert health.detail == "\\udcff.png\nis gone"
