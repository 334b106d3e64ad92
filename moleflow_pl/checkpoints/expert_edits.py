"""Experts in a checkpoint: taken out, put in, removed, renamed.

All of it works on a checkpoint's dictionary, not on a model: no backbone is needed, and a tensor
that is not touched stays equal bit for bit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import yaml
from torch import Tensor

from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.names import is_file_name
from moleflow_pl._internal.provenance import versions
from moleflow_pl.checkpoints.experts import PLACEHOLDER, TASK_LISTS, Expert
from moleflow_pl.checkpoints.schema import (
    CONFIG_KEY,
    CONTAINERS_KEY,
    STATE_KEY,
    differences,
    run_arguments,
    shorten,
)
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.tasks.schedule import GROUP_JOINT, Task, TaskSchedule

# tensors with as many rows as a product's bank has vectors
BANK = re.compile(r"(^|\.)banks\.[^.]+\..+\.(values|factors)$")
Checkpoint = dict[str, Any]


def learned_schedule(checkpoint: Checkpoint) -> TaskSchedule:
    """The learned tasks of a checkpoint, without those that are only planned.

    Raises:
        CheckpointError: one is half learned.
    """
    schedule = TaskSchedule.from_state(checkpoint[STATE_KEY]["tasks"])
    begun = [task for task in schedule.tasks if task.epochs_done]
    if len(begun) > len(schedule.learned):
        raise CheckpointError(f"{begun[-1].name!r} is half learned: finish the fit first")
    return TaskSchedule(begun)


def task_of(checkpoint: Checkpoint, key: str) -> int | None:
    """The task a tensor belongs to; None for the base."""
    parts, place = split_at_task(checkpoint, key)
    return None if place is None else int(parts[place])


def renamed(checkpoint: Checkpoint, key: str, task: int | str) -> str:
    """Name of a task's tensor for another task, or for a file."""
    parts, place = split_at_task(checkpoint, key)
    if place is not None:
        parts[place] = str(task)
    return ".".join(parts)


def split_at_task(checkpoint: Checkpoint, key: str) -> tuple[list[str], int | None]:
    """The parts of a tensor's name, and which of them is the task; None for the base."""
    containers, parts = set(checkpoint[STATE_KEY][CONTAINERS_KEY]), key.split(".")
    for place, part in enumerate(parts):
        number = part.isdecimal() or part == PLACEHOLDER
        if number and ".".join(parts[:place]) in containers:
            return parts, place
    return parts, None


def base_hash(checkpoint: Checkpoint) -> str:
    """Hash of all tensors that belong to no task, which every expert needs unchanged."""
    weights = checkpoint["state_dict"]
    return content_hash({k: t for k, t in weights.items() if task_of(checkpoint, k) is None})


def index_of(schedule: TaskSchedule, name: str) -> int:
    """Number of the task with this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in schedule.names:
        raise ConfigError(f"no expert {name!r}: the model has {schedule.names}")
    return schedule.names.index(name)


def extract(checkpoint: Checkpoint, name: str) -> Expert:
    """The expert of a learned task.

    Raises:
        ConfigError: there is no such task.
    """
    schedule, state = learned_schedule(checkpoint), checkpoint[STATE_KEY]
    task = index_of(schedule, name)
    return Expert(
        tensors_of(checkpoint, task), schedule.tasks[task],
        [one for one in TASK_LISTS if task in state[one]],
        base_hash(checkpoint), state["backbone"], state["structure"],
        last_metrics(schedule, task), versions(),
    )  # fmt: skip


def tensors_of(checkpoint: Checkpoint, task: int) -> dict[str, Tensor]:
    """A task's tensors, by their names in an expert's file."""
    return {
        renamed(checkpoint, key, PLACEHOLDER): tensor
        for key, tensor in checkpoint["state_dict"].items()
        if task_of(checkpoint, key) == task
    }


def last_metrics(schedule: TaskSchedule, task: int) -> dict[str, dict[str, float | None]]:
    """A task's metrics in the last evaluation there is, by metric and routing mode."""
    rows = [one.evaluation for one in schedule.tasks[task:] if one.evaluation]
    if not rows:
        return {}
    return {
        metric: {way: values[task] for way, values in ways.items()}
        for metric, ways in rows[-1]["metrics"].items()
    }


def require_same_base(checkpoint: Checkpoint, expert: Expert) -> None:
    """Check that an expert was learned on the base of a checkpoint.

    Raises:
        CheckpointError: backbone, structure or base differ.
    """
    state = checkpoint[STATE_KEY]
    for what, theirs, ours in (
        ("backbone", expert.backbone, state["backbone"]),
        ("structure", expert.structure, state["structure"]),
    ):
        other = differences(theirs, ours)
        if other:
            raise CheckpointError(f"the expert was learned on another {what} ({other})")
    base = base_hash(checkpoint)
    if expert.base != base:
        raise CheckpointError(
            f"the expert {expert.task.name!r} was learned on the base {expert.base}, this model's "
            f"is {base}: an expert fits runs that share their first task's checkpoint"
        )
    other = differences(kinds_of(expert.tensors), kinds_of(tensors_of(checkpoint, 0)))
    other = other or uneven_banks(expert.tensors)
    if other:
        # a tensor with a name of the base's would change the base of all experts
        name = expert.task.name
        raise CheckpointError(f"the expert {name!r} has other tensors ({shorten(other)})")


def kinds_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Number format and shape of each tensor, in words; but for the vectors in a memory bank.

    Example:
        >>> import torch
        >>> kinds_of({"a": torch.zeros(2, 3), "banks.*.depths.0.factors": torch.zeros(2, 1)})
        {'a': 'float32 [2, 3]', 'banks.*.depths.0.factors': 'float32 [any, 1]'}
    """
    kinds = {}
    for key, one in tensors.items():
        shape = ["any", *one.shape[1:]] if BANK.search(key) else one.shape
        kinds[key] = f"{str(one.dtype).removeprefix('torch.')} [{', '.join(map(str, shape))}]"
    return kinds


def uneven_banks(tensors: Mapping[str, Tensor]) -> str:
    """The first memory bank with more vectors than factors, or fewer; empty where there is none."""
    for key, values in tensors.items():
        factors = tensors.get(f"{key.removesuffix('values')}factors")
        if BANK.search(key) and factors is not None and len(factors) != len(values):
            return f"{key}: {len(values)} vectors, {len(factors)} factors"
    return ""


def add(checkpoint: Checkpoint, expert: Expert, name: str | None = None) -> None:
    """Add an expert after those of a checkpoint, under its own name or another.

    Raises:
        CheckpointError: it was learned on another base.
        ConfigError: one of its products is known already.
    """
    require_same_base(checkpoint, expert)
    schedule, state = learned_schedule(checkpoint), checkpoint[STATE_KEY]
    task = (
        expert.task if name is None else with_product_renamed(expert.task, expert.task.name, name)
    )
    require_new_products(schedule, task.products)
    # an evaluation is of the tasks of the run that made it
    task = replace(task, evaluation=None)
    number = len(schedule.tasks)
    for key, tensor in expert.tensors.items():
        checkpoint["state_dict"][renamed(checkpoint, key, number)] = tensor
    for one in expert.lists:
        state[one] = [*state[one], number]
    set_schedule(checkpoint, TaskSchedule([*schedule.tasks, task]))


def remove(checkpoint: Checkpoint, name: str) -> None:
    """Remove an expert; the numbers of later ones decrease by one.

    Raises:
        ConfigError: there is no such task, or no other.
    """
    schedule, state = learned_schedule(checkpoint), checkpoint[STATE_KEY]
    removed = index_of(schedule, name)
    if len(schedule.tasks) == 1:
        raise ConfigError(f"{name!r} is the only expert: without it the model knows nothing")
    weights = {}
    for key, tensor in checkpoint["state_dict"].items():
        task = task_of(checkpoint, key)
        if task is None or task < removed:
            weights[key] = tensor
        elif task > removed:
            weights[renamed(checkpoint, key, task - 1)] = tensor
    checkpoint["state_dict"] = weights
    for one in TASK_LISTS:
        state[one] = [task - (task > removed) for task in state[one] if task != removed]
    tasks = [task for i, task in enumerate(schedule.tasks) if i != removed]
    for later in tasks[removed:]:
        later.evaluation = None  # its rows and columns count the removed task
    set_schedule(checkpoint, TaskSchedule(tasks))


def rename(checkpoint: Checkpoint, old: str, new: str) -> None:
    """Give a product another name.

    Raises:
        ConfigError: there is no such product, or the name is taken or none.
    """
    schedule = learned_schedule(checkpoint)
    task = schedule.find(old)
    changed = with_product_renamed(schedule.tasks[task], old, new)
    others = [one for i, one in enumerate(schedule.tasks) if i != task]
    require_new_products(TaskSchedule(others), changed.products)
    schedule.tasks[task] = changed
    for later in schedule.tasks[task:]:
        if later.evaluation and (decisions := later.evaluation["decisions"][task]):
            names = {name: new if name == old else name for name in decisions}
            later.evaluation["decisions"][task] = {names[n]: one for n, one in decisions.items()}
    set_schedule(checkpoint, schedule)


def set_aside(checkpoint: Checkpoint, products: Sequence[str], number: int) -> str:
    """Make room for a newer version of an expert: no image is routed to the one there is.

    Args:
        checkpoint: Its model.
        products: Its products.
        number: Of this version; the products' names get it.

    Returns:
        The name that it has now.
    """
    for product in products:
        rename(checkpoint, product, f"{product}~{number}")
    name = GROUP_JOINT.join(f"{product}~{number}" for product in products)
    schedule = learned_schedule(checkpoint)
    schedule.tasks[index_of(schedule, name)].replaced = True
    set_schedule(checkpoint, schedule)
    return name


def with_products(task: Task, names: Mapping[str, str]) -> Task:
    """A task with other names for its products, those that are known by the old ones."""
    (renamed,) = TaskSchedule.from_state([asdict(task)]).tasks
    lists, calibration = [renamed.products], renamed.calibration
    if calibration is not None:
        lists += [calibration.products, calibration.training.products]
    for products in lists:
        products[:] = [names.get(product, product) for product in products]
    return renamed


def with_product_renamed(task: Task, old: str, new: str) -> Task:
    """A task with one product renamed.

    Raises:
        ConfigError: the task covers several products and none has the old name.
    """
    if not is_file_name(new) or GROUP_JOINT in new:
        raise ConfigError(f"{new!r} cannot be a product's name: it has to be a folder's name")
    if old not in task.products:
        raise ConfigError(f"{old!r} covers {task.products}: rename one of them")
    return with_products(task, {old: new})


def require_new_products(schedule: TaskSchedule, products: list[str]) -> None:
    """Check that a model knows none of some products, and that none is there twice.

    Raises:
        ConfigError: one is known or repeated.
    """
    known = Counter(product for task in schedule.tasks for product in task.products)
    known.update(products)
    taken = [one for one in dict.fromkeys(products) if known[one] > 1]
    if taken:
        raise ConfigError(f"the model knows {taken} already: remove or rename it first")


def set_schedule(checkpoint: Checkpoint, schedule: TaskSchedule) -> None:
    """Write the tasks into a checkpoint, and everything that counts them."""
    state = checkpoint[STATE_KEY]
    before = TaskSchedule.from_state(state["tasks"]).epochs_done
    state["tasks"] = schedule.state()
    more = schedule.epochs_done - before
    # a resumed fit counts its epochs by these
    checkpoint["epoch"] += more
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update({key: count + more for key, count in counts.items()})
    config = run_arguments(checkpoint)
    if "data" in config:
        groups = [task.products for task in schedule.tasks]
        config["data"]["tasks"] = [one[0] if len(one) == 1 else one for one in groups]
        checkpoint[CONFIG_KEY] = yaml.safe_dump(config, sort_keys=False)
