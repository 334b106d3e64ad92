"""Extract, add, remove and rename experts in a checkpoint.

These functions work on a checkpoint's dictionary, not on a model: they need no backbone, and
tensors of other experts stay equal bit for bit.
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
from moleflow_pl._internal.names import LONGEST_NAME, is_short_name
from moleflow_pl._internal.provenance import versions
from moleflow_pl.checkpoints.experts import PLACEHOLDER, TASK_LISTS, Expert
from moleflow_pl.checkpoints.schema import (
    BY_PRODUCT,
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
    """The learned tasks of a checkpoint, without planned ones.

    Raises:
        CheckpointError: a task is partly learned.
    """
    schedule = TaskSchedule.from_state(checkpoint[STATE_KEY]["tasks"])
    begun = [task for task in schedule.tasks if task.epochs_done]
    if len(begun) > len(schedule.learned):
        raise CheckpointError(
            f"{begun[-1].name!r} is partly learned: finish the fit first, with moleflow fit "
            "--ckpt_path"
        )
    return TaskSchedule(begun)


def task_of(checkpoint: Checkpoint, key: str) -> int | None:
    """The task a tensor belongs to; None for the base."""
    parts, place = split_at_task(checkpoint, key)
    return None if place is None else int(parts[place])


def renamed(checkpoint: Checkpoint, key: str, task: int | str) -> str:
    """Name of a task's tensor with the number of another task, or a placeholder."""
    parts, place = split_at_task(checkpoint, key)
    if place is not None:
        parts[place] = str(task)
    return ".".join(parts)


def split_at_task(checkpoint: Checkpoint, key: str) -> tuple[list[str], int | None]:
    """The parts of a tensor's name, and the index of the task's number; None for the base."""
    containers, parts = set(checkpoint[STATE_KEY][CONTAINERS_KEY]), key.split(".")
    for place, part in enumerate(parts):
        number = part.isdecimal() or part == PLACEHOLDER
        if number and ".".join(parts[:place]) in containers:
            return parts, place
    return parts, None


def base_hash(checkpoint: Checkpoint) -> str:
    """Hash of the base's tensors, which every expert needs unchanged."""
    weights = checkpoint["state_dict"]
    return content_hash({k: t for k, t in weights.items() if task_of(checkpoint, k) is None})


def index_of(schedule: TaskSchedule, name: str) -> int:
    """Number of the task with this name.

    Raises:
        ConfigError: no task has the name.
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
        [key for key in TASK_LISTS if task in state[key]],
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
    """A task's metrics in its last evaluation, by metric and routing mode."""
    rows = [later.evaluation for later in schedule.tasks[task:] if later.evaluation]
    if not rows:
        return {}
    return {
        metric: {mode: values[task] for mode, values in modes.items()}
        for metric, modes in rows[-1]["metrics"].items()
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
            raise CheckpointError(
                f"the expert was learned on another {what} ({other}): use one of this model's "
                f"{what}"
            )
    base = base_hash(checkpoint)
    if expert.base != base:
        raise CheckpointError(
            f"the expert {expert.task.name!r} was learned on the base {expert.base}, this model's "
            f"is {base}: an expert fits only runs that start from the same first task's checkpoint"
        )
    other = differences(kinds_of(expert.tensors), kinds_of(tensors_of(checkpoint, 0)))
    other = other or uneven_banks(expert.tensors)
    if other:
        # a tensor named like one of the base would change the base of all experts
        name = expert.task.name
        raise CheckpointError(
            f"the expert {name!r} has other tensors than this model ({shorten(other)}): export it "
            "again"
        )


def kinds_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Dtype and shape of each tensor, in words; the size of memory banks may differ.

    Example:
        >>> import torch
        >>> kinds_of({"a": torch.zeros(2, 3), "banks.*.depths.0.factors": torch.zeros(2, 1)})
        {'a': 'float32 [2, 3]', 'banks.*.depths.0.factors': 'float32 [any, 1]'}
    """
    kinds = {}
    for key, tensor in tensors.items():
        shape = ["any", *tensor.shape[1:]] if BANK.search(key) else tensor.shape
        kinds[key] = f"{str(tensor.dtype).removeprefix('torch.')} [{', '.join(map(str, shape))}]"
    return kinds


def uneven_banks(tensors: Mapping[str, Tensor]) -> str:
    """The first memory bank with unequal numbers of vectors and factors; empty if all agree."""
    for key, values in tensors.items():
        factors = tensors.get(f"{key.removesuffix('values')}factors")
        if BANK.search(key) and factors is not None and len(factors) != len(values):
            return f"{key}: {len(values)} vectors, {len(factors)} factors"
    return ""


def add(checkpoint: Checkpoint, expert: Expert, name: str | None = None) -> None:
    """Add an expert after those of a checkpoint, under its own name or another.

    Raises:
        CheckpointError: the expert was learned on another base.
        ConfigError: the model already knows one of its products.
    """
    require_same_base(checkpoint, expert)
    schedule, state = learned_schedule(checkpoint), checkpoint[STATE_KEY]
    task = (
        expert.task if name is None else with_product_renamed(expert.task, expert.task.name, name)
    )
    require_new_products(schedule, task.products)
    # an evaluation covers the tasks of its own run
    task = replace(task, evaluation=None)
    number = len(schedule.tasks)
    for key, tensor in expert.tensors.items():
        checkpoint["state_dict"][renamed(checkpoint, key, number)] = tensor
    for key in expert.lists:
        state[key] = [*state[key], number]
    set_schedule(checkpoint, TaskSchedule([*schedule.tasks, task]))


def remove(checkpoint: Checkpoint, name: str) -> None:
    """Remove an expert; the numbers of later ones decrease by one.

    Raises:
        ConfigError: no task has the name, or the task is the only one.
    """
    schedule, state = learned_schedule(checkpoint), checkpoint[STATE_KEY]
    removed = index_of(schedule, name)
    if len(schedule.tasks) == 1:
        raise ConfigError(f"{name!r} is the only expert: add another one before removing it")
    weights = {}
    for key, tensor in checkpoint["state_dict"].items():
        task = task_of(checkpoint, key)
        if task is None or task < removed:
            weights[key] = tensor
        elif task > removed:
            weights[renamed(checkpoint, key, task - 1)] = tensor
    checkpoint["state_dict"] = weights
    for key in TASK_LISTS:
        state[key] = [task - (task > removed) for task in state[key] if task != removed]
    tasks = [task for i, task in enumerate(schedule.tasks) if i != removed]
    for later in tasks[removed:]:
        later.evaluation = None  # its rows and columns count the removed task
    set_schedule(checkpoint, TaskSchedule(tasks))


def rename(checkpoint: Checkpoint, old: str, new: str) -> None:
    """Give a product another name, also in the arguments of the run.

    Raises:
        ConfigError: there is no such product, or the new name is taken or invalid.
    """
    rename_in_tasks(checkpoint, old, new)
    rename_in_arguments(checkpoint, old, new)


def rename_in_tasks(checkpoint: Checkpoint, old: str, new: str) -> None:
    """Give a product another name in the tasks alone.

    Raises:
        ConfigError: as for `rename`.
    """
    schedule = learned_schedule(checkpoint)
    task = schedule.find(old)
    changed = with_product_renamed(schedule.tasks[task], old, new)
    others = [other for i, other in enumerate(schedule.tasks) if i != task]
    require_new_products(TaskSchedule(others), changed.products)
    schedule.tasks[task] = changed
    for later in schedule.tasks[task:]:
        if later.evaluation and (decisions := later.evaluation["decisions"][task]):
            names = {name: new if name == old else name for name in decisions}
            later.evaluation["decisions"][task] = {names[n]: decisions[n] for n in decisions}
    set_schedule(checkpoint, schedule)


def set_aside(checkpoint: Checkpoint, products: Sequence[str], number: int) -> str:
    """Set an expert aside for a newer version: rename it, and route no image to it.

    The arguments of the run keep its name: they are those of the newer version.

    Args:
        checkpoint: The model.
        products: The expert's products.
        number: Number of this version, appended to the products' names.

    Returns:
        The new name of the expert.
    """
    for product in products:
        rename_in_tasks(checkpoint, product, f"{product}~{number}")
    name = GROUP_JOINT.join(f"{product}~{number}" for product in products)
    schedule = learned_schedule(checkpoint)
    schedule.tasks[index_of(schedule, name)].replaced = True
    set_schedule(checkpoint, schedule)
    return name


def with_products(task: Task, names: Mapping[str, str]) -> Task:
    """A copy of a task whose products are renamed by a mapping from old to new names."""
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
        ConfigError: the task covers several products and none has the old name, or the new name
            is not one of a product.
    """
    if old not in task.products:
        raise ConfigError(f"{old!r} is a group of {task.products}: rename one of these products")
    renamed = with_products(task, {old: new})
    if GROUP_JOINT in new or not (is_short_name(new) and is_short_name(renamed.name)):
        raise ConfigError(
            f"{new[:40]!r} cannot be a product's name: it must be a valid folder name without "
            f"{GROUP_JOINT!r}, of at most {LONGEST_NAME} bytes with those of all products of its "
            "task"
        )
    return renamed


def require_new_products(schedule: TaskSchedule, products: list[str]) -> None:
    """Check that products are distinct and new to a model.

    Raises:
        ConfigError: a product is known or repeated.
    """
    known = Counter(product for task in schedule.tasks for product in task.products)
    known.update(products)
    taken = [product for product in dict.fromkeys(products) if known[product] > 1]
    if taken:
        raise ConfigError(f"the model already knows {taken}: remove or rename it first")


def set_schedule(checkpoint: Checkpoint, schedule: TaskSchedule) -> None:
    """Write the tasks into a checkpoint, with all counts that depend on them."""
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
        config["data"]["tasks"] = [group[0] if len(group) == 1 else group for group in groups]
        checkpoint[CONFIG_KEY] = yaml.safe_dump(config, sort_keys=False)


def rename_in_arguments(checkpoint: Checkpoint, old: str, new: str) -> None:
    """Give a product another name where the arguments of the run differ by product."""
    config = run_arguments(checkpoint)
    given = [config.get("data", {}).get(key) for key in BY_PRODUCT]
    named = [
        by_product for by_product in given if isinstance(by_product, dict) and old in by_product
    ]
    for by_product in named:
        by_product[new] = by_product.pop(old)  # in place of a removed product of that name
    if named:
        checkpoint[CONFIG_KEY] = yaml.safe_dump(config, sort_keys=False)
