"""From an inspector to the contents of a checkpoint, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_pl._internal.devices import usual_device
from moleflow_pl._internal.torch_threads import one_thread
from moleflow_pl.checkpoints.io import reading_checkpoint, restoring, validate_checkpoint
from moleflow_pl.checkpoints.schema import (
    CONTAINERS_KEY,
    require_match,
    require_tensors,
    task_containers,
)
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.model.arguments import ModelArguments
from moleflow_pl.model.build import build_inspector, plain_tensors, without_values
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.tasks.schedule import TaskSchedule

logger = logging.getLogger(__name__)

PREFIX = "inspector."  # of the inspector's tensors in a checkpoint
BACKBONE = "extractor.backbone."  # under it; left out of files
HYPER_PARAMETERS = "hyper_parameters"  # Lightning's key
# bytes of a checkpoint's tensors; those of a larger one stay on disk
LARGEST_IN_MEMORY = 2**29


def arguments_of(inspector: Inspector) -> ModelArguments:
    """The arguments that an inspector was built from.

    Raises:
        ConfigError: the inspector was not built from arguments.
    """
    if inspector.arguments is None:
        raise ConfigError(
            "this inspector was put together from parts, and a checkpoint needs the arguments that "
            "build it again: build it with build_inspector(ModelArguments(...))"
        )
    return inspector.arguments


def structure(inspector: Inspector) -> dict[str, Any]:
    """The arguments that determine which tensors and thresholds exist and what they mean."""
    parts = list(inspector.score.parts)
    chosen = arguments_of(inspector).structure()
    return {**chosen, "score": parts if len(parts) > 1 else parts[0]}


def inspector_state(inspector: Inspector, owner: nn.Module) -> dict[str, Any]:
    """The project's part of a checkpoint, without seed and version stamp.

    Args:
        inspector: The inspector to save.
        owner: The module whose state dict goes into the file.
    """
    return {
        "backbone": inspector.extractor.fingerprint(),
        "structure": structure(inspector),
        "experts": list(inspector.flow.tasks),
        "prototypes": sorted(map(int, inspector.router.prototypes)),
        CONTAINERS_KEY: task_containers(owner),
        "tasks": inspector.schedule.state(),
    }


def validate_state(inspector: Inspector, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's part of a checkpoint, if it fits an inspector.

    Raises:
        CheckpointError: the file is not this project's, or of another backbone or structure.
    """
    valid = validate_checkpoint(checkpoint)
    return require_match(valid, inspector.extractor.fingerprint(), structure(inspector))


def warn_of_precision(inspector: Inspector, checkpoint: Mapping[str, Any]) -> None:
    """Warn if the backbone computes in another number format than a model was learned with."""
    learned = (checkpoint.get(HYPER_PARAMETERS) or {}).get("precision")
    chosen = inspector.extractor.precision
    if {learned, chosen} == {"float32", "bfloat16"}:
        logger.warning(
            f"model.precision {chosen}: the model was learned with {learned}, so scores differ and "
            "thresholds may not hold; see what moleflow test says before you rely on it"
        )


def make_room(
    inspector: Inspector, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Take over the tasks of a checkpoint, and create the modules for its tensors.

    Args:
        inspector: The model.
        state: The project's part of the checkpoint.
        tensors: Those of the inspector, by their names in its state dict.

    Raises:
        CheckpointError: the file holds fewer values than its tasks have in this model.
    """
    inspector.schedule.tasks = TaskSchedule.from_state(state["tasks"]).tasks
    before = numbers_of(inspector.flow)
    for task in state["experts"]:
        if task not in inspector.flow.tasks:
            inspector.flow.add_task(task)
            if task == state["experts"][0]:
                each = numbers_of(inspector.flow) - before
                require_numbers(tensors, each * len(state["experts"]))
        make_interest(inspector, task, tensors)
    for task in state["prototypes"]:
        added = inspector.add_prototypes(task)
        if task == state["prototypes"][0]:
            require_numbers(tensors, sum(map(numbers_of, added)) * len(state["prototypes"]))
        if inspector.score.needs_memory:
            inspector.make_memory(task, bank_shapes(inspector, task, tensors))
    replaced = [i for i, task in enumerate(inspector.schedule.tasks) if task.replaced]
    for router in (inspector.router, inspector.novelty_router):
        router.hide(replaced)


def make_interest(inspector: Inspector, task: int, tensors: Mapping[str, Tensor]) -> None:
    """Create the region of interest of a task, of the size in the file."""
    inside = tensors.get(f"interest.tasks.{task}.inside")
    if inside is None or inside.ndim != 2:
        raise CheckpointError(f"the region of interest of task {task} is missing or not a grid")
    inspector.interest.add(task, (inside.shape[0], inside.shape[1]), inspector.device)


def numbers_of(module: nn.Module) -> int:
    """Number of values in a module's state dict."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def require_numbers(tensors: Mapping[str, Tensor], needed: int) -> None:
    """Raise an error if a file holds fewer values than the model that it describes.

    So that a small file cannot make the model fill the memory.

    Raises:
        CheckpointError: the file holds fewer values.
    """
    stored = sum(tensor.numel() for tensor in tensors.values())
    if stored < needed:
        raise CheckpointError(
            f"it holds {stored} values, and its tasks need {needed} in this model"
        )


def bank_shapes(
    inspector: Inspector, task: int, tensors: Mapping[str, Tensor]
) -> dict[str, list[tuple[int, int]]]:
    """Number of vectors and of channels of a task's memory banks, by part of the score."""
    shapes: dict[str, list[tuple[int, int]]] = {name: [] for name in inspector.score.parts}
    for name in inspector.score.with_banks:
        places = (f"banks.{task}.{name}.{index}.values" for index in count())
        for values in map(tensors.__getitem__, takewhile(tensors.__contains__, places)):
            if values.ndim != 2:
                raise CheckpointError(f"memory bank {name!r} of task {task} is not a matrix")
            shapes[name].append((values.shape[0], values.shape[1]))
    return shapes


def inspector_tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names in the inspector's state dict."""
    weights = checkpoint["state_dict"]
    return {key.removeprefix(PREFIX): tensor for key, tensor in weights.items()}


def backbone_tensors(extractor: PatchExtractor, prefix: str) -> dict[str, Tensor]:
    """The tensors that a checkpoint leaves out, by their names in a state dict."""
    return {f"{prefix}{key}": value for key, value in extractor.backbone.state_dict().items()}


def load_inspector(path: Path, device: str | torch.device = "cpu", **overrides: Any) -> Inspector:
    """Build the inspector of a checkpoint; no code that the file names runs.

    On a CPU, the tensors of a large checkpoint stay on disk, and the system brings those in that
    images ask for. Such a file may be replaced (`os.replace`, `mv`), but not written over.

    Args:
        path: The checkpoint.
        device: Device of the inspector.
        overrides: Arguments of the model that replace those of the file, such as
            `backbone_weights` if the file has moved.

    Raises:
        CheckpointError: the file cannot be used, or is of another backbone.
    """
    # another thread computes its hash, and takes as long as the backbone
    with one_thread(), reading_checkpoint(path) as checkpoint:
        return inspector_of(checkpoint, path, device, **overrides)


def inspector_of(
    checkpoint: Mapping[str, Any],
    path: Path,
    device: str | torch.device = "cpu",
    **overrides: Any,
) -> Inspector:
    """As `load_inspector`, from the result of `read_checkpoint`."""
    with restoring(path), plain_tensors(), usual_device():
        with without_values():
            inspector = build_inspector(
                ModelArguments(**{**stored_arguments(checkpoint), **overrides})
            )
        weights = inspector_tensors(checkpoint)
        # valid already, since it was read
        fingerprint = inspector.extractor.fingerprint()
        state = require_match(checkpoint, fingerprint, structure(inspector))
        warn_of_precision(inspector, checkpoint)
        with without_values():
            make_room(inspector, state, weights)
        backbone, own = backbone_tensors(inspector.extractor, BACKBONE), inspector.state_dict()
        require_tensors({**weights, **backbone}, own)
        inspector.load_state_dict({**held(weights, own), **backbone}, assign=True)
    return inspector.to(device).eval()


def held(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file as a model has them: in its number formats, in memory or on disk."""
    copy = sum(tensor.nbytes for tensor in stored.values()) <= LARGEST_IN_MEMORY
    return {
        name: tensor.to(own[name].dtype, copy=copy, memory_format=torch.contiguous_format)
        for name, tensor in stored.items()
    }


def stored_arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The `ModelArguments` in a checkpoint, by name.

    Raises:
        CheckpointError: an argument is missing.
    """
    stored = checkpoint.get(HYPER_PARAMETERS) or {}
    names = [field.name for field in fields(ModelArguments)]
    missing = [name for name in names if name not in stored]
    if missing:
        raise CheckpointError(
            f"it lacks the model's arguments {missing}: use a checkpoint as it was written"
        )
    return {name: stored[name] for name in names}
