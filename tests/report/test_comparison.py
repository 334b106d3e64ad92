import csv
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from moleflow_pl.errors import DataError, OutputError
from moleflow_pl.metrics.decisions import share
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_scores import ROUTING_MODES
from moleflow_pl.report.comparison import Spread, compare, overall, read_summary, tabulate, tex
from moleflow_pl.report.decisions import SHARES, format_count, format_rate, format_share
from moleflow_pl.report.summary import summarise
from tests.helpers.scores import COST, THRESHOLD, runs_in, untested_tasks


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


def rows_of_page(path: Path) -> list[list[str]]:
    """The cells of every row of a page's tables, as plain text on one line."""
    rows = re.findall(r"<tr>(.*?)</tr>", path.read_text(), re.S)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[" ".join(unescape(re.sub(r"<.*?>", " ", c)).split()) for c in row] for row in cells]


def rows_of_latex(path: Path) -> list[list[str]]:
    """The cells of every row of a LaTeX file's tables, as plain text without commas."""
    plain = path.read_text().replace(r"\&", "AND").replace(r"$\pm$", "±").replace(",", "")
    rows = re.findall(r"^(.*) \\\\$", plain, re.M)
    cells = [row.replace(r"\%", "%").replace(r"\_", "_").split("&") for row in rows]
    return [[" ".join(cell.replace("AND", "&").split()) for cell in row] for row in cells]


def numbers_of_csv(path: Path, runs: list[Path]) -> dict[tuple[str, ...], list[float | None]]:
    """The value of each run, by task or product, metric and routing mode."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        (row["task"], row["metric"], row["routing_mode"]): [
            float(row[str(run)]) if row[str(run)] else None for run in runs
        ]
        for row in rows
    }


def test_files_say_the_same_of_metrics_in_three_forms(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    _, files = compare(runs, tmp_path / "out")
    assert [path.name for path in files] == ["comparison.html", "comparison.tex", "comparison.csv"]
    page, latex = rows_of_page(files[0]), rows_of_latex(files[1])
    numbers = numbers_of_csv(files[2], runs)
    assert numbers["b", "image_auroc", "routed"] == [0.0, 0.5]
    for name in ("a", "b", "metal_nut & <co>", "mean over tasks"):
        routed, oracle = (
            [str(Spread(numbers[name, metric, mode])) for metric in METRICS]
            for mode in ROUTING_MODES
        )
        both = [f"{one} ({other})" for one, other in zip(routed, oracle, strict=True)]
        assert [name, *both] in page
        assert [name, *routed] in latex
    assert "&lt;co&gt;" in files[0].read_text()


def test_files_say_the_same_of_decisions_and_thresholds_in_three_forms(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    _, files = compare(runs, tmp_path / "out")
    page, latex = rows_of_page(files[0]), rows_of_latex(files[1])
    numbers = {key[:2]: values for key, values in numbers_of_csv(files[2], runs).items()}
    for i, run in enumerate(runs):
        assert (numbers["a", "threshold"][i], numbers["a", "false_alarm_rate"][i]) == (
            THRESHOLD, 0.01,
        )  # fmt: skip
        value, low, high = (
            f"{THRESHOLD:.4g}",
            *(
                format_rate(numbers["a", f"false_alarm_rate_{end}"][i] or 0)
                for end in ("low", "high")
            ),
        )
        limit = ["a", str(run), value, "1 %", f"{low} to {high}"]
        assert limit in [row[:5] for row in page]
        assert [*limit, "3"] in latex
        for product, limits, both in (
            ("a", [value, "1 %"], f"{value} target 1 %"), ("all products", ["", ""], ""),
        ):  # fmt: skip
            counts = [
                share(*(int(numbers[product, f"{key}_{n}"][i] or 0) for n in ("count", "of")))
                for key in SHARES
            ]
            told = [f"{format_count(one)} {format_share(one)}" for one in counts]
            assert [product, str(run), *limits, *told] in latex
            assert [product, str(run), both, *told] in page


def test_tasks_of_which_nothing_was_measured_have_no_row(tmp_path: Path) -> None:
    (run, _) = runs_in(tmp_path)
    path = run / "report" / "summary.json"
    summary = json.loads(path.read_text())
    for metric in summary["metrics"].values():
        metric["routed"][1] = metric["oracle"][1] = None
    path.write_text(json.dumps(summary))
    tables, files = compare([run], tmp_path / "out")
    measured = [row[0] for row in rows_of_page(files[0]) if len(row) == 1 + len(METRICS)]
    assert measured == ["task", "a", "mean over tasks"]
    assert not [row for row in rows_of_latex(files[1]) if "-" in row and row[0] == "b"]
    assert [str(cell) for cell in tables[0].columns[0].cells] == ["a", "mean over tasks"]


def test_runs_without_test_images_are_compared_by_their_thresholds_alone(tmp_path: Path) -> None:
    (tmp_path / "run" / "report").mkdir(parents=True)
    summary = summarise(untested_tasks(), COST)
    (tmp_path / "run" / "report" / "summary.json").write_text(json.dumps(summary))
    tables, files = compare([tmp_path / "run"], tmp_path / "out")
    assert [table.title for table in tables] == ["thresholds"]
    page, latex = (path.read_text() for path in files[:2])
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == ["Thresholds", "Each run"]
    assert [f"{THRESHOLD:.4g}", "1 %"] in [row[2:4] for row in rows_of_page(files[0])]
    assert not [row for row in rows_of_page(files[0]) if {"-", "- (-)"} & set(row)]
    assert latex.count("tabular") == 2
    assert f"& {THRESHOLD:.4g} &" in latex


def test_decisions_of_each_run_are_compared_by_product(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    _, files = compare(runs, tmp_path / "out")
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
    assert "<th>image_score</th>" not in compare(runs, tmp_path / "out")[1][0].read_text()
    summary["settings"]["image_score"] = "tail"
    path.write_text(json.dumps(summary))
    page = compare(runs, tmp_path / "out")[1][0].read_text()
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
        lambda s: s["decisions"].pop("all"),
        lambda s: s["decisions"]["all"]["recall"].update(low=None),
        lambda s: s.update(calibration=[3]),
        lambda s: s["calibration"][0]["threshold"].pop("value"),
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
    _, files = compare([run], tmp_path / "out")
    assert "\n=a," not in files[2].read_text("utf-8")
    assert "\n'=a," in files[2].read_text("utf-8")


def test_latex_is_escaped() -> None:
    assert tex("a\x1b\nb") == r"a\textbackslash{}x1b\textbackslash{}nb"
    assert tex("a_b^c\\") == r"a\_b\textasciicircum{}c\textbackslash{}"


def test_file_in_the_place_of_the_output_is_named_before_a_run_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="out: it is a file; move it away"):
        compare([tmp_path / "missing"], tmp_path / "out")


@pytest.mark.parametrize("name", ["[2cm]", "*"])
def test_a_name_is_no_argument_of_the_line_break_before_it(name: str) -> None:
    assert tex(name).startswith("{")
    assert tex(name).replace("{", "").replace("}", "") == name
