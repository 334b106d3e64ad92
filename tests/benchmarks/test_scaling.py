from collections.abc import Callable

import pytest

from benchmarks import scaling
from benchmarks.harness.report import Report
from benchmarks.scaling import SMALL, Sizes

Part = Callable[[Report, Sizes], None]
LIMITS = {
    scaling.disk: ("MOST_EXPERT_MB", "disk for an expert, D = 64, rank 4", 10, 0),
    scaling.hashing: ("MOST_HASH", "hash of a checkpoint that is loaded", (1e6, 0), (-1e6, -1e6)),
    scaling.routing: ("MOST_ROUTING", "routing among 5 products", 1e6, 0),
    scaling.throughput: ("LEAST_THROUGHPUT", "throughput, 3 experts against 1", 0, 1e6),
    scaling.many_images: ("MOST_GROWN_MB", "memory grown by 32 images", 200, -1),
}


@pytest.mark.parametrize("part", LIMITS, ids=lambda part: part.__name__)
def test_every_figure_is_measured_and_can_miss_its_limit(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, what, easy, impossible = LIMITS[part]
    for value, failed in ((easy, 0), (impossible, 1)):
        monkeypatch.setattr(scaling, limit, value)
        report = Report("x")
        part(report, SMALL)
        assert [row.what for row in report.rows] == [what]
        assert report.failed == failed


def test_help_is_compared_with_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "BARE_IMPORT", "pass")  # a quicker one than Lightning's
    monkeypatch.setattr(scaling, "MOST_HELP_SECONDS", 60)
    monkeypatch.setattr(scaling, "MOST_HELP_RATIO", 0.5)
    report = Report("x")
    scaling.startup(report, SMALL)
    assert [row.holds for row in report.rows] == [True, False]


def test_parts_are_all_that_the_command_measures() -> None:
    assert {*LIMITS, scaling.startup} == set(scaling.PARTS)
