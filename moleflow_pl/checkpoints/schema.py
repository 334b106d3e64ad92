"""The contents of a checkpoint, their validation, and whether they fit a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, TypedDict

import yaml
from torch import Tensor, nn

from moleflow_pl._internal.names import is_file_name
from moleflow_pl._internal.plain_yaml import load_yaml
from moleflow_pl._internal.schema import SEAL, validate
from moleflow_pl._internal.signing import SIGNATURE
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.metrics.decisions import ProductDecisions
from moleflow_pl.metrics.good_images import GoodImages
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import MOST_PRODUCTS, Task

STATE_KEY = "moleflow"
CONFIG_KEY = "moleflow_config"
CONTAINERS_KEY = "per_task"
GROUPS = ("model", "data", "schedule", "trainer", "evaluation")  # groups of arguments in use
BY_PRODUCT = ("root", "roi", "variants")  # arguments of the data that may differ by product
MOST_CONTAINERS = 4096
LONGEST_NAME = 500  # characters of a tensor's name
Values = list[float | None]  # one for each task


class State(TypedDict):
    """The entry `STATE_KEY` of a checkpoint; a file adds a seal, and perhaps a signature."""

    schema: int
    version: str
    seed: int
    backbone: dict[str, Any]
    structure: dict[str, Any]
    experts: list[int]
    prototypes: list[int]
    per_task: list[str]
    tasks: list[Task]


class ByRouting(TypedDict):
    """A metric of every task, routed and by the oracle."""

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
    """A row of the task matrix, see `moleflow_pl.metrics.task_matrix.matrix_row`."""

    settings: dict[str, Any]
    metrics: dict[str, ByRouting]
    f1_threshold: ByRouting
    pixel_error_bound: float | None
    confusion: list[list[int]]
    routed_tasks: list[list[int] | None]
    decisions: list[dict[str, ProductDecisions] | None]
    good_images: list[GoodImages | None]
    routing: Routing


def unsealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state without seal and signature."""
    return {key: value for key, value in state.items() if key not in (SEAL, SIGNATURE)}


def validate_contents(checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint is complete and consistent.

    Raises:
        CheckpointError: an entry is missing, has the wrong type, or contradicts the others.
    """
    state = checkpoint[STATE_KEY]
    validate(state, dict[str, Any], STATE_KEY)
    validate(unsealed(state), State, STATE_KEY)
    validate(checkpoint.get(CONFIG_KEY, ""), str, CONFIG_KEY)
    weights = checkpoint.get("state_dict")
    validate(weights, dict[str, Tensor], "state_dict")
    require_few(state[CONTAINERS_KEY], MOST_CONTAINERS, "kinds of tensors for each task")
    require_few(max(weights or {}, key=len, default=""), LONGEST_NAME, "letters in a tensor's name")
    validate(checkpoint.get("epoch", 0), int, "epoch")
    validate_counts(checkpoint.get("loops", {}), "loops")
    validate_tasks(state["tasks"])
    learned = [i for i, t in enumerate(state["tasks"]) if t.get("epochs_done", 0) >= t["epochs"]]
    for key in ("experts", "prototypes"):
        numbers = state[key]
        if numbers != sorted(set(numbers) & set(range(len(state["tasks"])))):
            raise CheckpointError(
                f"{key} {shorten(str(numbers))} do not fit {len(state['tasks'])} tasks"
            )
        if not set(learned) <= set(numbers):
            raise CheckpointError(f"tasks {learned} are learned, but {key} has only {numbers}")
    with_tensors = tasks_of(weights or {}, state[CONTAINERS_KEY])
    if not set(state["experts"]) <= with_tensors:
        raise CheckpointError(
            f"experts {state['experts']} are listed, but only {sorted(with_tensors)} have tensors"
        )


def require_few(items: Collection[Any], most: int, what: str) -> None:
    """Raise an error for more items than any model has, which would take endless time to process.

    Raises:
        CheckpointError: there are more.
    """
    if len(items) > most:
        raise CheckpointError(f"it has {len(items)} {what}, and at most {most} are allowed")


def run_arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the run that wrote a checkpoint, by group; without any, an empty dict.

    Raises:
        CheckpointError: the arguments are not valid.
    """
    try:
        arguments = load_yaml(checkpoint.get(CONFIG_KEY) or "{}")
        validate(arguments, dict[str, Any], "all")
        for group in set(GROUPS) & set(arguments):
            validate(arguments[group], dict[str, Any], group)
    except (yaml.YAMLError, ValueError) as error:
        reason = one_line(error)
        raise CheckpointError(
            f"the run's arguments in the checkpoint are not valid: {reason}"
        ) from error
    return arguments


def validate_counts(counts: Any, where: str) -> None:
    """Check Lightning's counts: a dictionary of counts, or of such dictionaries.

    Raises:
        CheckpointError: a value is not a count.
    """
    validate(counts, dict[str, Any], where)
    for key, value in counts.items():
        if isinstance(value, dict):
            validate_counts(value, f"{where}.{key}")
        elif not isinstance(value, int) or value < 0:  # a flag counts as 0 or 1
            raise CheckpointError(
                f"{where}.{key}: expected a count of at least 0, found {value!r:.40}"
            )


def tasks_of(names: Sequence[str] | Mapping[str, Any], containers: Sequence[str]) -> set[int]:
    """The tasks that tensors belong to, by their names.

    Example:
        >>> tasks_of(["flow.lora_A.0", "flow.lora_A.12.x", "flow.base"], ["flow.lora_A"])
        {0, 12}
    """
    prefixes, tasks = set(containers), set()
    for name in names:
        parts = name.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
        tasks |= {int(parts[i]) for i in numbers if ".".join(parts[:i]) in prefixes}
    return tasks


def validate_tasks(tasks: Any) -> None:
    """Check the tasks of a checkpoint, as `TaskSchedule.state` writes them.

    Raises:
        CheckpointError: an entry has the wrong type or value, or a product's name is invalid.
    """
    validate(tasks, list[Task], "tasks")
    names = list(chain.from_iterable(task["products"] for task in tasks))
    require_few(names, MOST_PRODUCTS, "products")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise CheckpointError(f"tasks name the products {repeated} more than once")
    for i, task in enumerate(tasks):
        validate_task(task, f"tasks[{i}]")
        if task.get("evaluation") is not None:
            validate_evaluation(task["evaluation"], i + 1, f"tasks[{i}].evaluation")


def validate_task(task: Mapping[str, Any], where: str) -> None:
    """Check the products, epochs and calibration of one task.

    Raises:
        CheckpointError: a product, a number of epochs or the calibration is invalid.
    """
    if not task["products"] or not all(map(is_file_name, task["products"])):
        raise CheckpointError(f"{where}: {task['products']} are not valid names of products")
    done = task.get("epochs_done", 0)
    if not 0 <= done <= max(task["epochs"], 1) or task["epochs"] < 1:
        raise CheckpointError(f"{where}: {done} of {task['epochs']} epochs is impossible")
    if task.get("calibration") is not None:
        validate_calibration(Calibration.from_state(task["calibration"]), f"{where}.calibration")


def validate_calibration(calibration: Calibration, where: str) -> None:
    """Check a calibration, and the limits that follow from it for a task and its products.

    Raises:
        CheckpointError: its lists are empty or differ in length, its rate is out of range, or no
            score would exceed a limit.
    """
    lists: list[list[Any]] = [
        calibration.scores,
        calibration.high_patch_scores,
        calibration.median_patch_scores,
        calibration.novelty_distances,
    ]
    lists += [
        values
        for values in (
            calibration.damaged_novelty_distances,
            calibration.brightness,
            calibration.products,
            calibration.images,
        )
        if values  # these may be empty
    ]
    lengths = {len(values) for values in lists}
    if len(lengths) > 1 or not calibration.scores:
        raise CheckpointError(f"{where} is incomplete: its lists have {sorted(lengths)} images")
    training = calibration.training
    lengths = {len(training.scores), len(training.products)}
    if len(lengths | {len(training.images)} - {0}) > 1:
        raise CheckpointError(f"{where}.training is incomplete: its lists differ in length")
    try:
        products = dict.fromkeys(calibration.products)
        for part in (calibration, *map(calibration.for_product, products)):
            part.limits()
            part.novelty_limit  # noqa: B018
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def validate_evaluation(evaluation: Any, tasks: int, where: str) -> None:
    """Check that an evaluation has all metrics, for a number of tasks.

    Raises:
        CheckpointError: the evaluation is incomplete.
    """
    row = dict(evaluation)
    # optional: metrics of the next task's images before it was learned
    validate(row.pop("zero_shot", {}), dict[str, float | None], f"{where}.zero_shot")
    validate(row, Evaluation, where)
    if set(evaluation["metrics"]) != set(METRICS):
        raise CheckpointError(
            f"{where}.metrics are {sorted(evaluation['metrics'])}, not {sorted(METRICS)}"
        )
    values = [*evaluation["metrics"].values(), evaluation["f1_threshold"]]
    rows = [*chain.from_iterable(modes.values() for modes in values), evaluation["confusion"]]
    rows += [evaluation[key] for key in ("routed_tasks", "decisions", "good_images")]
    rows += [
        *evaluation["confusion"],
        *(task["routed"] for task in evaluation["good_images"] if task),
    ]
    rows += [*evaluation["routing"]["per_task"].values()]
    if any(len(row) != tasks for row in rows):
        raise CheckpointError(f"{where} does not have one entry for each of {tasks} tasks")


def differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Differences between two descriptions, in words; empty if they agree.

    Example:
        >>> differences({"rank": 4, "dim": 8}, {"rank": 2, "dim": 8})
        'rank: file 4, model 2'
    """
    return "; ".join(
        f"{key}: file {stored.get(key)!r}, model {own.get(key)!r}"
        for key in sorted({*stored, *own})
        if stored.get(key) != own.get(key)
    )


def require_match(
    checkpoint: Mapping[str, Any], backbone: Mapping[str, Any], structure: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the project's part of a checkpoint, if it fits a model.

    Args:
        checkpoint: A valid checkpoint, see `moleflow_pl.checkpoints.io.validate_checkpoint`.
        backbone: Fingerprint of the model's backbone.
        structure: The model's arguments that determine what tensors and thresholds mean.

    Raises:
        CheckpointError: backbone or structure differ.
    """
    state = dict(checkpoint[STATE_KEY])
    other = differences(state["backbone"], backbone)
    if other:
        raise CheckpointError(
            f"the checkpoint was written with another backbone ({other}), and its experts fit only "
            "that one: set the model's backbone arguments as they were"
        )
    other = differences(state["structure"], structure)
    if other:
        raise CheckpointError(
            f"the checkpoint was written with other model arguments ({other}), and its tensors and "
            "thresholds are valid only for those: set them as they were, or start a new run "
            "without --ckpt_path"
        )
    return state


def require_tensors(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Check that a file has the tensors of a model.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    shapes = [{key: list(t.shape) for key, t in tensors.items()} for tensors in (stored, own)]
    other = differences(*shapes)
    if other:
        raise CheckpointError(
            f"the checkpoint's tensors differ from the model's ({shorten(other)}): use the model's "
            "arguments as they were"
        )


def shorten(text: str, longest: int = 300) -> str:
    """Cut a long text.

    Example:
        >>> shorten("abcdef", 3)
        'abc…'
    """
    return text if len(text) <= longest else f"{text[:longest]}…"


def one_line(error: BaseException) -> str:
    """The message of an error in one short line, or else its class."""
    message = (isinstance(error, OSError) and error.strerror) or str(error)
    return shorten(" ".join(message.split()) or type(error).__name__)


def task_containers(module: nn.Module) -> list[str]:
    """Names of a module's dictionaries that are keyed by task number.

    An expert consists of the tensors `<container>.<task>` and all below them.

    Example:
        >>> task_containers(nn.ModuleDict({"adapters": nn.ModuleDict({"0": nn.Linear(1, 1)})}))
        ['adapters']
    """
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, (nn.ModuleDict, nn.ParameterDict))
        and len(part)
        and all(key.isdigit() for key in part)
    ]
