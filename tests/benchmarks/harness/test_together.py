import pytest

from benchmarks.harness import together
from benchmarks.harness.report import Report
from moleflow_pl._internal.openmp import VARIABLE


def test_every_process_is_new_and_the_slowest_counts() -> None:
    assert together.seconds_together(2, 1, {VARIABLE: "0"}) > 0


@pytest.mark.parametrize(("both", "holds"), [(2.0, True), (3.1, False)])
def test_two_processes_are_judged_by_one(
    both: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "seconds_together", lambda count, *_: both if count == 2 else 1.0)
    report = Report("x")
    together.time_together(report)
    default, ours, alone = report.rows
    assert [row.value for row in report.rows] == [both, both, 1.0]
    assert default.most is None
    assert ours.holds == holds
    assert alone.holds
