import json

import pytest

from moleflow_pl.metrics.decisions import share
from moleflow_pl.metrics.task_matrix import matrix_row
from moleflow_pl.report.decisions import (
    SHARES,
    decision_table,
    decisions_of_runs,
    format_share,
    in_lines,
    matrix_rows,
    summarise_decisions,
    target_sentence,
)
from moleflow_pl.report.summary import summarise
from tests.helpers.scores import (
    COST,
    SETTINGS,
    THRESHOLD,
    decided,
    learned_tasks,
    on_screen,
    scored,
)


def test_summary_says_what_was_decided_with_counts_and_intervals() -> None:
    decisions = summarise(learned_tasks(), COST)["decisions"]
    first, second = decisions["products"]
    assert (first["task"], first["product"], first["threshold"]) == ("a", "a", THRESHOLD)
    assert first["recall"] == share(1, 2)
    assert first["missed"] == share(1, 2)
    assert first["false_alarms"] == share(0, 1)
    assert first["precision"] == share(1, 1)
    assert first["unknown"] == share(0, 3)
    # `b` has no calibration images, and so no decision
    assert second["threshold"] is None
    assert second["recall"] == share(0, 0)
    assert decisions["all"]["recall"] == share(1, 2)
    assert json.loads(json.dumps(decisions)) == decisions


def test_matrix_has_thresholds_and_a_row_for_each_task_with_gaps_for_those_to_come() -> None:
    summary = summarise(learned_tasks(), COST)
    recall = summary["decisions"]["matrix"]["recall"]
    assert recall == [[share(1, 2), None], [share(1, 2), share(0, 0)]]
    rows = {(name, after): cells for name, _, after, *cells in matrix_rows(summary)}
    assert rows["recall", "b"] == [0.5, None]
    assert rows["recall_count", "b"] == [1, 0]
    assert rows["recall_low", "a"] == [share(1, 2)["low"], None]
    assert rows["threshold", "b"] == [THRESHOLD, None]
    assert rows["false_alarm_rate", "b"] == [0.01, None]
    assert len(rows) == len(SHARES) * 5 * 2 + 2


def test_a_group_has_an_entry_for_each_product_and_one_cell_of_the_matrix() -> None:
    numbers = [1.0, 5.0, 1.0, 5.0]
    scores = scored(0, [0, 0, 1, 1], [0] * 4, numbers, decisions=decided(numbers, 3.0))
    for row, product in zip(scores.rows, "ppqq", strict=True):
        row["product"] = product
    decisions = summarise_decisions(["p+q"], [matrix_row([scores], 1, SETTINGS)])
    assert [(one["task"], one["product"]) for one in decisions["products"]] == [
        ("p+q", "p"),
        ("p+q", "q"),
    ]
    assert decisions["matrix"]["false_alarms"] == [[share(1, 2)]]
    assert decisions["all"]["recall"] == share(1, 2)


def test_table_fits_a_terminal_and_names_each_number() -> None:
    text = on_screen(decision_table(summarise(learned_tasks(), COST)))
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "false",
        "missed",
        "recall",
        "precision",
        "unknown",
        "1 of 2",
        "50.0 %",
        "Wilson",
    ):
        assert words in text
    assert "rate 1 %" in text
    low, high = (100 * share(1, 2)[key] for key in ("low", "high"))
    assert f"{low:.1f}-{high:.1f}" in text


def test_without_a_threshold_there_is_no_table() -> None:
    tasks = learned_tasks()
    for task in tasks:
        task.evaluation = matrix_row([scored(0, [0, 1], [0, 0], [1.0, 2.0])], 2, SETTINGS)
    assert decision_table(summarise(tasks, COST)) is None


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.034, "95 % of these defects would take a false-alarm rate of 3.4 %"),
        (1e-6, "95 % of these defects would take a false-alarm rate of at most 0.0001 %"),
        (None, "no false-alarm rate finds 95 %"),
    ],
)
def test_what_the_target_costs_is_a_sentence(rate: float | None, words: str) -> None:
    target = {"recall": 0.95, "false_alarm_rate": rate, "false_alarms": share(1, 4)}
    assert target_sentence({"target": target, "defective": 3}).startswith(words)
    assert target_sentence({"target": target, "defective": 0}) == ""


def test_shares_of_nothing_are_dashes() -> None:
    assert in_lines(share(0, 0)) == ["-"]
    assert format_share(share(0, 0)) == "-"


def test_runs_are_matched_by_product() -> None:
    one = summarise(learned_tasks(), COST)
    other = json.loads(json.dumps(one))
    other["decisions"]["products"] = other["decisions"]["products"][1:]
    found = decisions_of_runs([one, other])
    assert [entry and entry["product"] for entry in found["a"]] == ["a", None]
    assert [entry and entry["product"] for entry in found["b"]] == ["b", "b"]
    # the other run has no threshold, and so no decisions
    together, none = found["all products"]
    assert together is not None
    assert together["recall"] == one["decisions"]["all"]["recall"]
    assert none is None
