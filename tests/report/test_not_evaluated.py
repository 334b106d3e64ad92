from moleflow_pl.metrics.task_matrix import matrix_row
from moleflow_pl.report.not_evaluated import NOT_EVALUATED, NOT_TESTED, in_lines, not_evaluated
from moleflow_pl.tasks.oracle_scores import OracleScores
from moleflow_pl.tasks.schedule import Task
from tests.helpers.scores import SETTINGS, learned_tasks, scored, untested_tasks


def test_evaluated_tasks_are_not_named() -> None:
    assert not_evaluated(learned_tasks()) == {}
    assert not_evaluated(untested_tasks()) == {}


def test_task_that_was_never_tested_is_named_once_its_good_images_are_not_found() -> None:
    tasks = untested_tasks()
    alone = {1: tasks[1].evaluation["good_images"][1]}
    tasks[1].evaluation = matrix_row([], 2, SETTINGS, good_images=alone)
    assert not_evaluated(tasks) == {"a": NOT_EVALUATED}


def test_task_that_was_tested_is_named_without_test_images_even_if_good_ones_are_found() -> None:
    tasks = untested_tasks()
    tasks[0].oracle_scores = OracleScores([1.0], [2.0])
    assert not_evaluated(tasks) == {"a": NOT_TESTED}
    scores = scored(0, [0, 1], [0, 1], [1.0, 2.0])
    tasks[1].evaluation = matrix_row([scores], 2, SETTINGS)
    assert not_evaluated(tasks) == {"b": NOT_EVALUATED}


def test_replaced_version_is_not_named() -> None:
    tasks = [Task(["a~1"], 1, 1, replaced=True), Task(["a"], 1, 1)]
    tasks[1].evaluation = matrix_row([scored(1, [0], [1], [1.0])], 2, SETTINGS)
    assert not_evaluated(tasks) == {}


def test_names_share_a_line_with_their_reason() -> None:
    lines = in_lines({"a": NOT_TESTED, "b\x1b": NOT_EVALUATED, "c": NOT_TESTED})
    assert lines == [f"{NOT_TESTED}: a, c", rf"{NOT_EVALUATED}: b\x1b"]
    assert in_lines({}) == []
