import re
import shlex
from pathlib import Path

from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.metrics.task_matrix import matrix_row
from moleflow_pl.report.good_images import (
    good_images_table,
    halves_in_lines,
    is_tested,
    next_commands,
    routed_in_lines,
)
from moleflow_pl.report.summary import summarise
from tests.helpers.scores import COST, SETTINGS, THRESHOLD, learned_tasks, on_screen, untested_tasks


def test_summary_says_what_is_behind_each_threshold() -> None:
    first, second = summarise(untested_tasks(), COST)["calibration"]
    assert (first["task"], first["good_images"]["routed"]) == ("a", [2, 1])
    assert first["threshold"]["value"] == THRESHOLD
    assert first["threshold"]["images"] == 3
    assert first["threshold"]["images_needed"] == 99
    assert first["threshold"]["extrapolated"]
    assert (first["threshold"]["median_score"], first["threshold"]["highest_score"]) == (2.0, 2.5)
    assert second["threshold"] is None


def test_table_of_good_images_fits_a_terminal_and_says_what_is_known() -> None:
    text = on_screen(good_images_table(summarise(untested_tasks(), COST)))
    assert max(map(len, text.splitlines())) <= 80
    for words in ("27 +", "2 of 3", "1 to b", "differ", "p = 0.004", "alike", "unknown"):
        assert words in text
    assert f"> {THRESHOLD:.4g}" in text
    assert not re.search(r"[│┃] +- +[│┃]", text)


def test_tasks_with_test_images_are_not_in_the_table() -> None:
    tested = summarise(learned_tasks(), COST)
    assert is_tested(tested)
    assert good_images_table(tested) is None
    assert not is_tested(summarise(untested_tasks(), COST))


def test_tasks_that_were_tested_earlier_alone_do_not_count_as_tested() -> None:
    tasks = learned_tasks()
    tasks[1].evaluation = matrix_row([], 2, SETTINGS)
    assert not is_tested(summarise(tasks, COST))


def test_routing_of_no_images_says_so() -> None:
    entry = {"task": "a", "good_images": {"routed": [0, 0]}}
    assert routed_in_lines({"tasks": ["a", "b"]}, entry) == ["none", "to route"]


def test_halves_of_too_few_images_say_so() -> None:
    assert halves_in_lines(None) == ["too few"]


def test_without_thresholds_no_command_and_no_caption_is_about_them() -> None:
    tasks = untested_tasks()
    tasks[0].calibration = None
    commands = list(next_commands(RunFolder(Path("run")), tasks).values())
    assert not [command for command in commands if "calibrate" in command]
    assert "moleflow experts update run PRODUCT --data.val_fraction 0.1" in commands
    assert "these thresholds" not in on_screen(good_images_table(summarise(tasks, COST)))
    assert "these thresholds" in on_screen(good_images_table(summarise(untested_tasks(), COST)))


def test_next_commands_of_an_update_are_about_the_run_that_it_changes() -> None:
    run = RunFolder(Path("run"))
    for tasks in (learned_tasks()[:1], learned_tasks()):
        assert next_commands(run.update("a", 2), tasks) == next_commands(run, tasks)


def test_next_commands_take_any_path() -> None:
    commands = next_commands(RunFolder(Path("my run's")), learned_tasks()[:1])
    assert len(commands) == 3
    for command in commands.values():
        assert "my run's" in shlex.split(command)
