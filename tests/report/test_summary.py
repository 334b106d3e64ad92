import csv
import json
from pathlib import Path

from rich.console import Console

from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_matrix import matrix_row
from moleflow_pl.report.decisions import SHARES
from moleflow_pl.report.summary import (
    SCORE_COLUMNS,
    summarise,
    summary_table,
    task_matrix,
    write_report,
)
from tests.helpers.scores import COST, SETTINGS, decided, learned_tasks, scored

SHAPE = {
    "routed", "oracle", "matrix", "oracle_matrix", "average", "forgetting", "oracle_forgetting",
    "backward_transfer", "oracle_average", "oracle_backward_transfer",
}  # fmt: skip


def test_summary_has_the_agreed_shape() -> None:
    summary = summarise(learned_tasks(), COST)
    extra = {"settings", "pixel_error_bound", "drift", "calibration"}
    parts = {"schema", "version", "tasks", "routing", "decisions", "metrics", "cost"}
    assert set(summary) - extra == parts
    assert summary["settings"] == SETTINGS
    assert summary["schema"] == 1
    assert summary["tasks"] == ["a", "b"]
    routing = {"accuracy", "accuracy_on_defects", "confusion", "decisions_changed", "per_task"}
    assert set(summary["routing"]) == routing
    assert set(summary["metrics"]) == set(METRICS)
    extra = {"threshold", "forward_transfer"}
    assert all(set(metric) - extra == SHAPE for metric in summary["metrics"].values())
    assert summary["cost"] == {**COST, "fit_seconds": [1.5, 2.5]}
    assert json.loads(json.dumps(summary)) == summary


def test_matrix_rows_end_with_null_for_tasks_to_come() -> None:
    image = summarise(learned_tasks(), COST)["metrics"]["image_auroc"]
    assert image["matrix"] == [[1.0, None], [1.0, 0.0]]
    assert image["average"] == 0.5
    assert image["forgetting"] == image["backward_transfer"] == 0.0


def test_metrics_without_masks_are_null_and_left_out_of_means() -> None:
    pixel = summarise(learned_tasks(), COST)["metrics"]["pixel_auroc"]
    assert pixel["routed"][1] is None
    assert pixel["average"] == pixel["routed"][0]


def test_row_that_was_not_evaluated_is_all_null() -> None:
    tasks = learned_tasks()
    tasks[0].evaluation = None
    assert task_matrix(tasks, "image_auroc", "routed")[0] == [None, None]


def test_rows_made_under_other_settings_are_not_mixed_in() -> None:
    tasks = learned_tasks()
    tasks[0].evaluation["settings"] = {**SETTINGS, "router": "euclidean"}
    summary = summarise(tasks, COST)
    assert summary["metrics"]["image_auroc"]["matrix"][0] == [None, None]
    assert summary["routing"]["decisions_changed"] == [None, None]


def test_report_files_say_what_the_summary_says(tmp_path: Path) -> None:
    labelled = scored(0, [0, 1], [0, 1], [1.0, 2.0], decisions=decided([1.0, 2.0], 1.5))
    scores = [labelled, scored(1, [1], [1], [3.0])]
    summary = summarise(learned_tasks(), COST)
    write_report(tmp_path / "report", summary, scores)
    assert json.loads((tmp_path / "report" / "summary.json").read_text()) == summary
    with (tmp_path / "report" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(SCORE_COLUMNS)
    assert [row["task"] for row in rows] == ["a", "a", "b"]
    assert [row["routed_task"] for row in rows] == ["a", "b", "b"]
    assert float(rows[1]["score"]) == 2.0
    assert [row["label"] for row in rows] == ["normal", "anomalous", ""]
    assert [row["threshold"] for row in rows] == ["1.5", "1.5", ""]
    assert float(rows[1]["normalised_score"]) > 0.5 > float(rows[0]["normalised_score"])
    with (tmp_path / "report" / "matrix.csv").open() as file:
        matrix = list(csv.DictReader(file))
    assert len(matrix) == len(METRICS) * 2 * 2 + len(SHARES) * 5 * 2 + 2
    assert matrix[0] == {
        "metric": "image_auroc",
        "routing_mode": "routed",
        "after": "a",
        "a": "1.0",
        "b": "",
    }


def test_table_shows_routed_and_oracle_of_every_task() -> None:
    console = Console(width=120, record=True)
    console.print(summary_table(summarise(learned_tasks(), COST)))
    text = console.export_text()
    for word in ("a", "b", "all", "1.000 (1.000)", "0.000", "-", "oracle", "defective"):
        assert word in text


def test_table_has_no_row_for_a_task_of_which_nothing_was_measured() -> None:
    summary = summarise(learned_tasks(), COST)
    for metric in summary["metrics"].values():
        metric["routed"][0] = metric["oracle"][0] = None
    for values in summary["routing"]["per_task"].values():
        values[0] = None
    table = summary_table({**summary, "tasks": ["gone", "b"]})
    assert [str(cell) for cell in table.columns[0].cells] == ["b", "all"]


def test_table_of_nothing_measured_has_no_row_for_all() -> None:
    tasks = learned_tasks()
    tasks[1].evaluation = matrix_row([], 2, SETTINGS)
    assert summary_table(summarise(tasks, COST)).row_count == 0


def test_brackets_in_a_name_are_no_markup_of_the_table() -> None:
    tasks = learned_tasks()
    tasks[0].products = ["[red]screw"]
    console = Console(width=140, record=True)
    console.print(summary_table(summarise(tasks, COST)))
    assert "[red]screw" in console.export_text()


def test_no_cell_of_a_report_begins_like_a_formula(tmp_path: Path) -> None:
    tasks = learned_tasks()
    tasks[0].products = ["=a"]
    scores = [scored(0, [0, 1], [0, 0], [1.0, 2.0])]
    scores[0].rows[0] |= {"path": "@x\x1b.png", "product": "+p", "defect": "-d"}
    write_report(tmp_path, summarise(tasks, COST), scores)
    for name in ("matrix.csv", "scores.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert "'=a" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "-d"))]
    assert r"'@x\x1b.png" in cells
