from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from moleflow_pl.callbacks.last_messages import decisions_table, fit_ending, next_steps, places
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.tasks.oracle_scores import OracleScores
from moleflow_pl.tasks.schedule import TaskSchedule


def rows_of(table: Table) -> list[list[str]]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    return [[c.strip() for c in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_a_fit_ends_with_the_report_and_the_commands_that_follow() -> None:
    run = RunFolder(Path("my runs/x"))
    report, *following = fit_ending(run, TaskSchedule(), [], next_steps(run))
    assert report == "report: my runs/x/report/report.html"
    assert [line.partition(": ")[2] for line in following] == [
        "moleflow predict 'my runs/x' IMAGES", "moleflow calibrate 'my runs/x'",
        "moleflow export 'my runs/x'",
    ]  # fmt: skip
    assert all(line.startswith("next, to ") for line in following)


@pytest.mark.parametrize(("on_disk", "named"), [([1, 2], "a"), ([2], "a, b"), ([0, 1, 2], None)])
def test_products_whose_images_are_gone_are_named(on_disk: list[int], named: str | None) -> None:
    schedule = TaskSchedule()
    schedule.extend([["a"], ["b"], ["c"], ["b~1"], ["never tested"]], epochs=1)
    for task in schedule.tasks[:4]:
        task.oracle_scores = OracleScores([1.0], [2.0])
    schedule.tasks[3].replaced = True
    first = fit_ending(RunFolder(Path("r")), schedule, on_disk, {})[0]
    expected = "report: " if named is None else "not tested again, because their images are gone: "
    assert first.startswith(expected)
    assert named is None or first == f"{expected}{named}"


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
