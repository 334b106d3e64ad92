from moleflow_pl.report.comparison import compared
from moleflow_pl.report.comparison_tables import comparison_tables
from moleflow_pl.report.summary import summarise
from tests.helpers.scores import COST, THRESHOLD, learned_tasks, on_screen, untested_tasks


def test_tables_fit_a_terminal_and_have_thresholds_counts_and_intervals() -> None:
    summary = summarise(learned_tasks(), COST)
    tables = comparison_tables(compared([summary, summary]), ["one", "two"])
    shown = [on_screen(table) for table in tables]
    assert max(len(line) for text in shown for line in text.splitlines()) <= 80
    metrics, decisions, thresholds = shown
    assert "mean over tasks" in metrics
    for words in ("all products", "one", "two", f"> {THRESHOLD:.4g}", "1 of 2", "9.5-90.5"):
        assert words in decisions
    for words in (f"{THRESHOLD:.4g}", "1 %", "two", "3"):
        assert words in thresholds


def test_tables_of_what_is_not_known_are_left_out() -> None:
    tasks = untested_tasks()
    content = compared([summarise(tasks, COST)])
    assert [table.title for table in comparison_tables(content, ["one"])] == ["thresholds"]
    tasks[0].calibration = None
    assert comparison_tables(compared([summarise(tasks, COST)]), ["one"]) == []
