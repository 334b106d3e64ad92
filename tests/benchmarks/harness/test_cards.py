import json
from pathlib import Path

import pytest
import torch

from benchmarks.harness.cards import Session
from benchmarks.harness.report import Report


def broken() -> None:
    raise RuntimeError("no such kernel\nadvice")


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    report = Report("x")
    session = Session(report, seconds=60)
    assert not session.run("first", broken)
    assert session.run("second", lambda: session.add("speed", 2.0, "x", least=1))
    assert report.finish() == 1
    session.write(tmp_path / "new" / "x.json", {"small": True})
    content = json.loads((tmp_path / "new" / "x.json").read_text())
    first, second = content["rows"]
    assert first["note"] == "failed: RuntimeError: no such kernel advice"
    assert first["value"] is None
    assert [first["holds"], second["holds"]] == [False, True]
    assert "in broken" in content["failures"]["first"]
    assert content["small"]
    assert "torch" in content["versions"]


def test_a_part_without_time_is_left_out_and_misses_no_limit() -> None:
    report, times = Report("x"), iter([0.0, 1.0, 3.0])
    session = Session(report, seconds=2, now=lambda: next(times))
    assert session.run("first", lambda: None)
    assert not session.run("second", broken)
    (row,) = report.rows
    assert row.note == "left out: no time left"
    assert not report.failed
    assert not session.failures


def test_what_does_not_fit_into_memory_is_no_failure() -> None:
    def large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    session = Session(Report("x"), seconds=60)
    assert not session.run("256 at once", large)
    assert session.report.rows[0].note == "out of memory"
    assert not session.report.failed


def test_an_interruption_is_no_failure() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Session(Report("x"), seconds=60).run("first", stop)
