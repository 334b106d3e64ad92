"""Experts as files: what a site learned of a product, for others with the same base.

All of it works on a checkpoint's dictionary, not on a model: no backbone is needed, and a tensor
that is not touched stays the same to the bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moleflow_pl._internal.files import replacing
from moleflow_pl._internal.hashing import tensors_hash
from moleflow_pl._internal.names import is_file_name
from moleflow_pl._internal.provenance import versions
from moleflow_pl._internal.schema import require_schema, stamp, validate
from moleflow_pl.checkpoints.schema import (
    CONFIG_KEY,
    CONTAINERS_KEY,
    STATE_KEY,
    differences,
    shorten,
    validate_tasks,
)
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.tasks.schedule import GROUP_JOINT, Task, TaskSchedule

PLACE = "*"  # stands for the task's number in an expert's file
TASK_LISTS = ("experts", "prototypes")  # of task numbers, in a checkpoint's state

Checkpoint = dict[str, Any]


@dataclass
class Expert:
    """All that belongs to one task alone.

    Attributes:
        tensors: By their names in the checkpoint, the task's number replaced by `*`.
        task: The task's state: products, calibration, hash of its images.
        lists: Which lists of the checkpoint's state name the task.
        base: Hash of the tensors it stands on.
        backbone: Fingerprint of the backbone.
        structure: The model's arguments that decide what its tensors mean.
        metrics: Its last evaluation, routed and with the own expert.
        versions: Of the packages that wrote it.
    """

    tensors: dict[str, Tensor]
    task: Task
    lists: list[str]
    base: str
    backbone: dict[str, Any]
    structure: dict[str, Any]
    metrics: dict[str, dict[str, float | None]]
    versions: dict[str, str]

    def metadata(self) -> dict[str, str]:
        """Everything but the tensors, as text."""
        # pictures of an evaluation and the like are the run's, not the expert's
        task, found = {**asdict(self.task), "evaluation": None}, self.task.calibration
        return {
            **{key: str(value) for key, value in stamp().items()},
            "product": self.task.name,
            "base_sha256": self.base,
            "data_sha256": self.task.split or "",
            "threshold": "" if found is None else repr(found.score_threshold.value),
            "task": json.dumps(task),
            "lists": json.dumps(self.lists),
            "backbone": json.dumps(self.backbone),
            "structure": json.dumps(self.structure),
            "metrics": json.dumps(self.metrics),
            "versions": json.dumps(self.versions),
        }

    def save(self, path: Path) -> None:
        """Write one `.safetensors` file."""
        with replacing(path, "wb") as file:
            file.write(save({k: t.contiguous() for k, t in self.tensors.items()}, self.metadata()))

    @classmethod
    def load(cls, path: Path) -> Expert:
        """Read what `save` wrote.

        Raises:
            CheckpointError: there is no such file, or it is not an expert of this schema.
        """
        try:
            with safe_open(path, framework="pt") as file:
                text = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"no expert file at {path}: {error}") from error
        schema = text.get("schema", "")
        stated = {**text, "schema": int(schema) if schema.isdecimal() else None}
        require_schema(stated, f"the expert file {path}")
        try:
            task, facts = parsed(text)
        except (CheckpointError, KeyError, ValueError) as error:
            raise CheckpointError(f"the expert file {path} is damaged: {error}") from error
        return cls(tensors, task, base=text.get("base_sha256", ""), **facts)


class Facts(TypedDict):
    """What an expert's file says beside its task and its tensors."""

    lists: list[str]
    backbone: dict[str, Any]
    structure: dict[str, Any]
    metrics: dict[str, dict[str, float | None]]
    versions: dict[str, str]


def parsed(metadata: Mapping[str, str]) -> tuple[Task, dict[str, Any]]:
    """An expert's task and `Facts`, from the text in its file.

    Raises:
        CheckpointError: they have another form, or the task is not learned.
        KeyError: one is not there.
        ValueError: one is no JSON.
    """
    facts = {key: json.loads(metadata[key]) for key in Facts.__annotations__}
    validate(facts, Facts, "it")
    state = json.loads(metadata["task"])
    validate_tasks([state])
    (task,) = TaskSchedule.from_state([state]).tasks
    if not task.learned or sorted(facts["lists"]) != sorted(TASK_LISTS):
        raise CheckpointError("its task is not learned")
    return task, facts


def settled(checkpoint: Checkpoint) -> TaskSchedule:
    """The learned tasks of a checkpoint; those that are only planned are left out.

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
    for container in checkpoint[STATE_KEY][CONTAINERS_KEY]:
        found = re.match(rf"{re.escape(container)}\.(\d+)(\.|$)", key)
        if found:
            return int(found[1])
    return None


def renamed(checkpoint: Checkpoint, key: str, task: int | str) -> str:
    """Name of a task's tensor for another task, or for a file."""
    for container in checkpoint[STATE_KEY][CONTAINERS_KEY]:
        key = re.sub(rf"^{re.escape(container)}\.(\d+|\*)(?=\.|$)", f"{container}.{task}", key)
    return key


def base_hash(checkpoint: Checkpoint) -> str:
    """Hash of all tensors that belong to no task: what every expert stands on."""
    weights = checkpoint["state_dict"]
    return tensors_hash({k: t for k, t in weights.items() if task_of(checkpoint, k) is None})


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
    schedule, state = settled(checkpoint), checkpoint[STATE_KEY]
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
        renamed(checkpoint, key, PLACE): tensor
        for key, tensor in checkpoint["state_dict"].items()
        if task_of(checkpoint, key) == task
    }


def last_metrics(schedule: TaskSchedule, task: int) -> dict[str, dict[str, float | None]]:
    """A task's metrics in the last evaluation there is, by metric and way."""
    rows = [one.evaluation for one in schedule.tasks[task:] if one.evaluation]
    if not rows:
        return {}
    return {
        metric: {way: values[task] for way, values in ways.items()}
        for metric, ways in rows[-1]["metrics"].items()
    }


def check_fit(checkpoint: Checkpoint, expert: Expert) -> None:
    """Refuse an expert of another base.

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
    own = base_hash(checkpoint)
    if expert.base != own:
        raise CheckpointError(
            f"the expert {expert.task.name!r} was learned on the base {expert.base}, this model's "
            f"is {own}: an expert fits runs that share their first task's checkpoint"
        )
    there = {key: tensor.shape for key, tensor in tensors_of(checkpoint, 0).items()}
    other = differences({key: tensor.shape for key, tensor in expert.tensors.items()}, there)
    if other:
        # a name of the base's would change what all experts stand on
        name = expert.task.name
        raise CheckpointError(f"the expert {name!r} has other tensors ({shorten(other)})")


def add(checkpoint: Checkpoint, expert: Expert, name: str | None = None) -> None:
    """Put an expert behind those of a checkpoint, under its own name or another.

    Raises:
        CheckpointError: it is of another base.
        ConfigError: one of its products is known already.
    """
    check_fit(checkpoint, expert)
    schedule, state = settled(checkpoint), checkpoint[STATE_KEY]
    task = expert.task if name is None else with_name(expert.task, expert.task.name, name)
    check_new(schedule, task.products)
    # an evaluation is of the tasks of the run that made it
    task = replace(task, evaluation=None)
    number = len(schedule.tasks)
    for key, tensor in expert.tensors.items():
        checkpoint["state_dict"][renamed(checkpoint, key, number)] = tensor
    for one in expert.lists:
        state[one] = [*state[one], number]
    put_back(checkpoint, TaskSchedule([*schedule.tasks, task]))


def remove(checkpoint: Checkpoint, name: str) -> None:
    """Take an expert out; those behind it move up by one number.

    Raises:
        ConfigError: there is no such task, or no other.
    """
    schedule, state = settled(checkpoint), checkpoint[STATE_KEY]
    gone = index_of(schedule, name)
    if len(schedule.tasks) == 1:
        raise ConfigError(f"{name!r} is the only expert: without it the model knows nothing")
    weights = {}
    for key, tensor in checkpoint["state_dict"].items():
        task = task_of(checkpoint, key)
        if task is None or task < gone:
            weights[key] = tensor
        elif task > gone:
            weights[renamed(checkpoint, key, task - 1)] = tensor
    checkpoint["state_dict"] = weights
    for one in TASK_LISTS:
        state[one] = [task - (task > gone) for task in state[one] if task != gone]
    tasks = [task for i, task in enumerate(schedule.tasks) if i != gone]
    for later in tasks[gone:]:
        later.evaluation = None  # its rows and columns count the task that is gone
    put_back(checkpoint, TaskSchedule(tasks))


def rename(checkpoint: Checkpoint, old: str, new: str) -> None:
    """Give a product another name.

    Raises:
        ConfigError: there is no such product, or the name is taken or none.
    """
    schedule = settled(checkpoint)
    task = schedule.find(old)
    changed = with_name(schedule.tasks[task], old, new)
    others = [one for i, one in enumerate(schedule.tasks) if i != task]
    check_new(TaskSchedule(others), changed.products)
    schedule.tasks[task] = changed
    put_back(checkpoint, schedule)


def with_name(task: Task, old: str, new: str) -> Task:
    """A task with one product renamed.

    Raises:
        ConfigError: the task covers several products and none has the old name.
    """
    if not is_file_name(new) or GROUP_JOINT in new:
        raise ConfigError(f"{new!r} is no name for a product: it has to be a folder's name")
    if old not in task.products:
        raise ConfigError(f"{old!r} covers {task.products}: rename one of them")
    (renamed,) = TaskSchedule.from_state([asdict(task)]).tasks
    for names in (renamed.products, renamed.calibration.products if renamed.calibration else []):
        names[:] = [new if product == old else product for product in names]
    return renamed


def check_new(schedule: TaskSchedule, products: list[str]) -> None:
    """Refuse products that a model knows already, or one twice.

    Raises:
        ConfigError: there is one.
    """
    known = [product for task in schedule.tasks for product in task.products]
    taken = [one for one in products if one in known or products.count(one) > 1]
    if taken:
        raise ConfigError(f"the model knows {taken} already: remove or rename it first")


def put_back(checkpoint: Checkpoint, schedule: TaskSchedule) -> None:
    """Write the tasks into a checkpoint, and all that counts them."""
    state = checkpoint[STATE_KEY]
    before = TaskSchedule.from_state(state["tasks"]).epochs_done
    state["tasks"] = schedule.state()
    more = schedule.epochs_done - before
    # a fit that goes on from here counts its epochs by these
    checkpoint["epoch"] += more
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update({key: count + more for key, count in counts.items()})
    config = yaml.safe_load(checkpoint.get(CONFIG_KEY) or "{}")
    if "data" in config:
        groups = [task.products for task in schedule.tasks]
        config["data"]["tasks"] = [one[0] if len(one) == 1 else one for one in groups]
        checkpoint[CONFIG_KEY] = yaml.safe_dump(config, sort_keys=False)
