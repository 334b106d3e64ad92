"""The form of what a checkpoint says of its run, and of the tasks in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypedDict

from torch import Tensor

from moleflow_pl._internal.names import is_file_name
from moleflow_pl._internal.schema import validate
from moleflow_pl.errors import CheckpointError
from moleflow_pl.metrics.image import METRICS
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import Task

STATE_KEY = "moleflow"
CONFIG_KEY = "moleflow_config"
CONTAINERS_KEY = "per_task"
Values = list[float | None]  # one a task


class State(TypedDict):
    """What a checkpoint holds under `STATE_KEY`."""

    seed: int
    backbone: dict[str, Any]
    structure: dict[str, Any]
    experts: list[int]
    prototypes: list[int]
    per_task: list[str]
    tasks: list[Task]


class Ways(TypedDict):
    """A metric of every task, routed and by its own expert."""

    routed: Values
    oracle: Values


class Accuracies(TypedDict):
    """Routing of every task's images."""

    accuracy: Values
    accuracy_on_defects: Values


class Routing(TypedDict):
    """Routing of all images."""

    accuracy: float | None
    accuracy_on_defects: float | None
    per_task: Accuracies


class Evaluation(TypedDict):
    """What `moleflow_pl.evaluation.matrix_row` makes."""

    settings: dict[str, Any]
    metrics: dict[str, Ways]
    f1_threshold: Ways
    pixel_error_bound: float | None
    confusion: list[list[int]]
    decisions: list[list[int] | None]
    routing: Routing


def check_checkpoint(checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose own account of itself is not whole.

    Raises:
        CheckpointError: something lacks, has another form, or contradicts the rest.
    """
    if not isinstance(checkpoint.get(STATE_KEY), dict):
        raise CheckpointError("this is no MoLE-Flow checkpoint: it says nothing of its tasks")
    state = checkpoint[STATE_KEY]
    validate(state, State, STATE_KEY)
    validate(checkpoint.get(CONFIG_KEY, ""), str, CONFIG_KEY)
    weights = checkpoint.get("state_dict")
    validate(weights, dict[str, Tensor], "state_dict")
    validate(checkpoint.get("epoch", 0), int, "epoch")
    check_counts(checkpoint.get("loops", {}), "loops")
    check_tasks(state["tasks"])
    learned = [i for i, t in enumerate(state["tasks"]) if t.get("epochs_done", 0) >= t["epochs"]]
    for key in ("experts", "prototypes"):
        numbers = state[key]
        if numbers != sorted(set(numbers) & set(range(len(state["tasks"])))):
            raise CheckpointError(f"{key} {numbers} are not those of {len(state['tasks'])} tasks")
        if not set(learned) <= set(numbers):
            raise CheckpointError(f"tasks {learned} are learned, and {key} are of {numbers} alone")
    there = tasks_of(weights or {}, state[CONTAINERS_KEY])
    if not set(state["experts"]) <= there:
        raise CheckpointError(f"experts {state['experts']}, and tensors of {sorted(there)} alone")


def check_counts(counts: Any, where: str) -> None:
    """Refuse what is no dictionary of Lightning's counts, or of such dictionaries.

    Raises:
        CheckpointError: a count is none, or negative.
    """
    validate(counts, dict[str, Any], where)
    for key, value in counts.items():
        if isinstance(value, dict):
            check_counts(value, f"{where}.{key}")
        elif not isinstance(value, int) or value < 0:  # one of two answers counts as 0 or 1
            raise CheckpointError(f"{where}.{key}: expected a count, found {value!r:.40}")


def tasks_of(names: Sequence[str] | Mapping[str, Any], containers: Sequence[str]) -> set[int]:
    """The tasks that tensors belong to, by their names.

    Example:
        >>> tasks_of(["flow.lora_A.0", "flow.lora_A.12.x", "flow.base"], ["flow.lora_A"])
        {0, 12}
    """
    below = re.compile(rf"(?:{'|'.join(map(re.escape, containers))})\.(\d+)(?:\.|$)")
    found = [below.match(name) for name in names] if containers else []
    return {int(one[1]) for one in found if one}


def check_tasks(tasks: Any) -> None:
    """Refuse what `TaskSchedule.state` cannot have made.

    Raises:
        CheckpointError: a form or a number that cannot be, or a name that leads out of a folder.
    """
    validate(tasks, list[Task], "tasks")
    names = list(chain.from_iterable(task["products"] for task in tasks))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CheckpointError(f"tasks name {twice} more than once")
    for i, task in enumerate(tasks):
        check_task(task, f"tasks[{i}]")
        if task.get("evaluation") is not None:
            check_evaluation(task["evaluation"], i + 1, f"tasks[{i}].evaluation")


def check_task(task: Mapping[str, Any], where: str) -> None:
    """Refuse a task of no or of dangerous products, or of epochs that cannot be.

    Raises:
        CheckpointError: it is one, or its calibration is not of as many images throughout.
    """
    if not task["products"] or not all(map(is_file_name, task["products"])):
        raise CheckpointError(f"{where}: {task['products']} are no names of products")
    done = task.get("epochs_done", 0)
    if not 0 <= done <= max(task["epochs"], 1) or task["epochs"] < 1:
        raise CheckpointError(f"{where}: {done} of {task['epochs']} epochs cannot be")
    if task.get("calibration") is None:
        return
    known = Calibration(**task["calibration"])
    lists: list[list[Any]] = [known.scores, known.peaks, known.levels, known.novelty_distances]
    lists += [later for later in (known.damaged, known.products) if later]  # not in every file
    lengths = {len(one) for one in lists}
    if len(lengths) > 1 or not 0 < known.false_alarm_rate < 1:
        raise CheckpointError(f"{where}.calibration is not whole")


def check_evaluation(evaluation: Any, tasks: int, where: str) -> None:
    """Refuse an evaluation that is not of all metrics and of so many tasks.

    Raises:
        CheckpointError: it is not.
    """
    row = dict(evaluation)
    # of the next task's images before it was learned, where that was asked for
    validate(row.pop("zero_shot", {}), dict[str, float | None], f"{where}.zero_shot")
    validate(row, Evaluation, where)
    if set(evaluation["metrics"]) != set(METRICS):
        raise CheckpointError(f"{where}.metrics are {sorted(evaluation['metrics'])}")
    ways = [*evaluation["metrics"].values(), evaluation["f1_threshold"]]
    rows = [*chain.from_iterable(way.values() for way in ways), evaluation["confusion"]]
    rows += [evaluation["decisions"], *evaluation["confusion"]]
    rows += [*evaluation["routing"]["per_task"].values()]
    if any(len(row) != tasks for row in rows):
        raise CheckpointError(f"{where} is not of {tasks} tasks")
