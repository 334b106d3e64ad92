import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moleflow_pl.errors import DataError, OutputError
from moleflow_pl.report.comparison import Spread, compare, overall, read_summary, tabulate, tex
from tests.helpers.scores import runs_in


def first_product(summary: dict) -> dict:
    return summary["decisions"]["products"][0]


def test_tasks_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    table = tabulate([read_summary(run) for run in runs_in(tmp_path)])
    assert table["a"]["image_auroc"]["routed"].values == [1.0, None]
    assert table["b"]["image_auroc"]["routed"].values == [0.0, 0.5]
    assert table["mean over tasks"]["image_auroc"]["routed"].values == [0.5, 0.375]


def test_spread_is_mean_and_sample_deviation() -> None:
    spread = Spread([1.0, None, 3.0])
    assert spread.mean == 2.0
    assert spread.deviation == pytest.approx(2**0.5)
    assert Spread([1.0]).deviation is None
    assert str(Spread([0.25])) == "0.250"


def test_files_say_the_same_in_three_forms(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    files = compare(runs, tmp_path / "out")
    assert [path.name for path in files] == ["comparison.html", "comparison.tex", "comparison.csv"]
    page, latex = (path.read_text() for path in files[:2])
    assert "0.250 ± 0.354" in page
    assert r"0.250 $\pm$ 0.354" in latex
    assert "&lt;co&gt;" in page
    assert "<co>" not in page
    assert r"metal\_nut \& <co>" in latex
    with files[2].open() as file:
        rows = list(csv.DictReader(file))
    row = next(
        r
        for r in rows
        if (r["task"], r["metric"], r["routing_mode"]) == ("b", "image_auroc", "routed")
    )
    assert float(row["mean"]) == 0.25
    assert (row["runs"], row[str(runs[0])], row[str(runs[1])]) == ("2", "0.0", "0.5")


def test_decisions_of_each_run_are_compared_by_product(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    files = compare(runs, tmp_path / "out")
    page, latex = (path.read_text() for path in files[:2])
    assert "1 of 2<br><small>50.0 % (9.5 to 90.5)</small>" in page
    assert "missed defects" in latex
    with files[2].open() as file:
        rows = {(r["task"], r["metric"]): r for r in csv.DictReader(file)}
    assert rows["a", "recall"][str(runs[0])] == "0.5"
    assert rows["a", "recall_count"][str(runs[0])] == "1"
    assert rows["b", "recall"]["mean"] == ""


def test_whole_runs_are_compared_by_routing_and_forgetting(tmp_path: Path) -> None:
    found = overall([read_summary(run) for run in runs_in(tmp_path)])
    assert found["routing accuracy"]["routed"].values == [1.0, 1.0]
    assert found["forgetting, image AUROC"]["routed"].values == [0.0, 0.0]


def test_what_runs_were_not_evaluated_by_alike_stands_beside_them(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    path = runs[1] / "report" / "summary.json"
    summary = json.loads(path.read_text())
    assert "<th>image_score</th>" not in compare(runs, tmp_path / "out")[0].read_text()
    summary["settings"]["image_score"] = "tail"
    path.write_text(json.dumps(summary))
    page = compare(runs, tmp_path / "out")[0].read_text()
    assert "<th>image_score</th>" in page
    assert "<td>quantile</td>" in page
    assert "<td>tail</td>" in page


def test_run_without_a_report_or_of_another_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no report/summary.json"):
        read_summary(tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "summary.json").write_text('{"schema": 99, "version": "9.9"}')
    with pytest.raises(DataError, match="schema 99, and .* use version 9.9, .* `moleflow test`"):
        read_summary(tmp_path)
    (tmp_path / "report" / "summary.json").write_text("{}")
    with pytest.raises(DataError, match="summary.json has no schema: .* `moleflow test`"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("tasks"),
        lambda s: s.update(tasks=3),
        lambda s: s["metrics"].pop("image_auroc"),
        lambda s: s["metrics"]["image_auroc"].update(routed=["a"]),
        lambda s: s["metrics"]["image_auroc"].update(oracle=[]),
        lambda s: s.update(metrics=[]),
        lambda s: s.update(routing=None),
        lambda s: s["routing"].update(accuracy="1"),
        lambda s: s.update(settings=[]),
        lambda s: s["metrics"]["image_auroc"].pop("forgetting"),
        lambda s: first_product(s).update(false_alarm_rate=None),
        lambda s: first_product(s).update(threshold=None),
        lambda s: first_product(s).update(calibration_images=None),
        lambda s: first_product(s)["recall"].update(low=None),
        lambda s: first_product(s)["target"].update(false_alarm_rate=0.1, false_alarms=None),
    ],
)
def test_a_damaged_summary_is_named_in_one_sentence(
    damage: Callable[[dict], object], tmp_path: Path
) -> None:
    run = runs_in(tmp_path)[0]
    path = run / "report" / "summary.json"
    summary = json.loads(path.read_text())
    damage(summary)
    path.write_text(json.dumps(summary))
    with pytest.raises(DataError, match="summary.json is damaged: .*run `moleflow test`") as error:
        compare([run], tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_summary_that_is_no_json_is_named_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "summary.json").write_bytes(content)
    with pytest.raises(DataError, match="summary.json is damaged: .*run `moleflow test`"):
        read_summary(tmp_path)


def test_names_in_a_table_of_runs_are_no_formulas(tmp_path: Path) -> None:
    run = runs_in(tmp_path)[0]
    path = run / "report" / "summary.json"
    path.write_text(path.read_text().replace('"a"', '"=a"'))
    files = compare([run], tmp_path / "out")
    assert "\n=a," not in files[2].read_text("utf-8")
    assert "\n'=a," in files[2].read_text("utf-8")


def test_latex_is_escaped() -> None:
    assert tex("a\x1b\nb") == r"a\textbackslash{}x1b\textbackslash{}nb"
    assert tex("a_b^c\\") == r"a\_b\textasciicircum{}c\textbackslash{}"


def test_file_in_the_place_of_the_output_is_named_before_a_run_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="out: it is a file; move it away"):
        compare([tmp_path / "missing"], tmp_path / "out")
