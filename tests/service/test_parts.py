"""The state of the parts of all processes."""

from pathlib import Path

import pytest

from moleflow_pl.service import parts as module
from moleflow_pl.service.database import Database
from moleflow_pl.service.health import ELSEWHERE, Health
from moleflow_pl.service.machine import NAME
from moleflow_pl.service.parts import Reporter, is_silent, parts
from tests.helpers.service import count


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "line.sqlite")


def reported(database: Database) -> list[tuple[str, bool, str]]:
    return [(part.name, part.ok, part.detail) for part in parts(database)]


def test_the_process_that_runs_a_part_reports_it(database: Database) -> None:
    here, there = Health("csv:a", detail="delivering"), Health("csv:a", detail=ELSEWHERE)
    one, two = Reporter(database, {"sinks": [here]}), Reporter(database, {"sinks": [there]})
    for reporter in (one, two):
        reporter.begin()
        reporter.look()
    assert reported(database) == [("csv:a", True, "delivering")]
    here.set_state(False, "the disk is full")
    one.look()
    two.look()
    assert reported(database) == [("csv:a", False, "the disk is full")]


def test_drift_that_one_machine_follows_for_all_is_one_part_and_who_only_starts_says_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine, health in {"a": Health("drift", detail="running"), "b": Health("drift")}.items():
        monkeypatch.setenv(NAME, machine)
        Reporter(database, {"background": [health]}).look()
    assert reported(database) == [("drift", True, "running")]
    Reporter(database, {"background": [Health("drift", detail="goes on")]}).look()
    assert reported(database) == [("drift", True, "goes on")]


def test_the_same_state_is_written_only_now_and_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Reporter(database, {"sources": [Health("camera:0", detail="watching")]})
    reporter.look()
    first = parts(database)[0].seen
    reporter.look()
    assert parts(database)[0].seen == first
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.0)
    reporter.look()
    assert parts(database)[0].seen > first


def test_a_part_whose_process_is_gone_is_silent(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Reporter(database, {"sources": [Health("camera:0", detail="watching")]}).look()
    assert not is_silent(parts(database)[0])
    monkeypatch.setattr(module, "SILENT_SECONDS", -1.0)
    assert is_silent(parts(database)[0])


def test_what_a_machine_no_longer_has_is_forgotten_and_that_of_others_is_not(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine in ("one", "two"):
        monkeypatch.setenv(NAME, machine)
        source, sink = Health("camera:0", detail="watching"), Health("csv:a", detail="delivering")
        Reporter(database, {"sources": [source], "sinks": [sink]}).look()
    assert [part.machine for part in parts(database)] == ["two", "one", "two"]  # one sink
    Reporter(database, {"sources": [Health("camera:1")]}).begin()
    assert count(database, module.Part) == 2
    assert {part.machine for part in parts(database)} == {"one"}
