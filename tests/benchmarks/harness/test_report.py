import json
import math

import pytest

from benchmarks.harness.report import Report, Row, benchmark


@pytest.mark.parametrize(
    ("value", "least", "most", "holds"),
    [
        (1.0, 1.0, None, True),
        (0.9, 1.0, None, False),
        (1.0, None, 1.0, True),
        (1.1, None, 1.0, False),
        (0.5, 0.0, 1.0, True),
        (1.5, 0.0, 1.0, False),
        (math.nan, 0.0, None, False),
        (None, 1.0, None, True),
    ],
)
def test_figure_holds_within_its_limits_alone(
    value: float | None, least: float | None, most: float | None, holds: bool
) -> None:
    row = Row("x", value, "", least, most)
    assert row.holds == holds
    assert row.verdict == ("" if value is None else "yes" if holds else "**no**")


def test_benchmark_fails_if_one_figure_misses_its_limit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def good(report: Report) -> None:
        report.add(Row("good", 2.0, "x", least=1))

    def bad(report: Report) -> None:
        report.add(Row("bad", 2.0, "x", most=1))

    assert benchmark("all good", good) == 0
    assert benchmark("one bad", good, bad) == 1
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["holds"] for row in line["rows"]] == [True, False]
    assert "torch" in line["versions"]


def test_table_in_markdown_has_a_line_for_each_figure() -> None:
    report = Report("x", [Row("a", 0.5, "s", most=1, note="b")])
    assert list(report.markdown())[2:] == ["| a | 0.5 s | at most 1 | yes | b |"]
