from pathlib import Path

from rich.console import Console
from rich.table import Table

from moleflow_pl.callbacks.last_messages import (
    decisions_table,
    fit_ending,
    next_lines,
    places,
    update_ending,
)
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.report.good_images import next_commands
from moleflow_pl.report.not_evaluated import NOT_EVALUATED, NOT_TESTED
from moleflow_pl.tasks.oracle_scores import OracleScores
from tests.helpers.scores import learned_tasks


def rows_of(table: Table) -> list[list[str]]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    return [[c.strip() for c in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_a_fit_ends_with_the_report_and_the_commands_that_follow() -> None:
    run = RunFolder(Path("my runs/x"))
    report, *following = fit_ending(run, {}, next_commands(run, learned_tasks()[:1], tested=True))
    assert report == "report: my runs/x/report/report.html"
    assert [line.partition(": ")[2] for line in following] == [
        "moleflow predict 'my runs/x' IMAGES", "moleflow calibrate 'my runs/x'",
        "moleflow export 'my runs/x'",
    ]  # fmt: skip
    assert all(line.startswith("next, to ") for line in following)


def test_products_that_were_not_evaluated_are_named_first() -> None:
    left_out = {"a": NOT_TESTED, "b": NOT_EVALUATED}
    named = fit_ending(RunFolder(Path("r")), left_out, {})[:-1]
    assert named == [f"{NOT_TESTED}: a", f"{NOT_EVALUATED}: b"]


def test_tested_model_without_thresholds_is_offered_none() -> None:
    commands = next_commands(RunFolder(Path("r")), learned_tasks()[1:], tested=True)
    assert list(commands) == [
        "score new images", "get a threshold for a product without one",
        "write one file for the line",
    ]  # fmt: skip


def test_an_update_ends_with_the_next_commands_for_its_run() -> None:
    run, (a, _) = RunFolder(Path("run")), learned_tasks()
    report, *following = update_ending(run, run.update("a", 1), [a])
    assert report == "report of the new version: run/updates/a~1/report/report.html"
    assert following == next_lines(next_commands(run, [a]))
    a.oracle_scores = OracleScores([1.0], [2.0])
    assert update_ending(run, run.update("a", 1), [a])[1:] == next_lines(
        next_commands(run, [a], tested=True)
    )


def test_decisions_are_counted_by_product_and_label() -> None:
    counts = {("b", "normal"): 3, ("a", "anomalous"): 2, ("b", "unknown_product"): 1}
    assert rows_of(decisions_table(counts)) == [
        ["a", "0", "2", "0"], ["b", "3", "0", "1"], ["all", "3", "2", "1"],
    ]  # fmt: skip
    assert rows_of(decisions_table({("a", ""): 4})) == [["a", "0", "0", "0", "4"]]


def test_only_what_was_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").touch()
    (tmp_path / "run.json").touch()
    assert places(tmp_path) == [f"predictions: {tmp_path / 'predictions.csv'}"]
    (tmp_path / "heatmaps").mkdir()
    assert places(tmp_path)[1:] == [f"heatmaps: {tmp_path / 'heatmaps'}"]
