"""What a checkpoint says of itself, and whether it fits a model."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moleflow_pl.errors import CheckpointError

STATE_KEY = "moleflow"
CONFIG_KEY = "moleflow_config"
CONTAINERS_KEY = "per_task"


def run_of(checkpoint: Path) -> Path:
    """The run folder a checkpoint lies in.

    Example:
        >>> run_of(Path("runs/demo/tasks/00-a.ckpt")) == run_of(Path("runs/demo/last.ckpt"))
        True
    """
    folder = checkpoint.parent
    return folder.parent if folder.name == "tasks" else folder


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint without running anything it may hold; its tensors stay on disk.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: a run keeps its own as RUN/last.ckpt and RUN/tasks/*.ckpt"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or STATE_KEY not in checkpoint:
        raise CheckpointError(f"{path} is no MoLE-Flow checkpoint: it says nothing of its tasks")
    return checkpoint


def differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What two descriptions disagree about, in words; empty where they agree.

    Example:
        >>> differences({"rank": 4, "dim": 8}, {"rank": 2, "dim": 8})
        'rank: file 4, model 2'
    """
    return "; ".join(
        f"{key}: file {stored.get(key)!r}, model {own.get(key)!r}"
        for key in sorted({*stored, *own})
        if stored.get(key) != own.get(key)
    )


def check_state(
    checkpoint: Mapping[str, Any], backbone: Mapping[str, Any], structure: Mapping[str, Any]
) -> dict[str, Any]:
    """The project's part of a checkpoint, if it fits.

    Raises:
        CheckpointError: it is not there, or describes another backbone or another structure.
    """
    if STATE_KEY not in checkpoint:
        raise CheckpointError("this is no MoLE-Flow checkpoint: it says nothing of its tasks")
    state = dict(checkpoint[STATE_KEY])
    other = differences(state["backbone"], backbone)
    if other:
        raise CheckpointError(
            f"the checkpoint was made on another backbone ({other}): its experts mean nothing to "
            "this one; set the model's backbone arguments as they were"
        )
    other = differences(state["structure"], structure)
    if other:
        raise CheckpointError(
            f"the checkpoint has other model arguments ({other}): leave them as they were, or "
            "start a new run without --ckpt_path"
        )
    return state


def plain(value: Any) -> Any:
    """A value built of dicts, lists, tensors, strings and numbers alone.

    Example:
        >>> plain({"layers": (8, 9)})
        {'layers': [8, 9]}
    """
    if isinstance(value, Mapping):
        return {key if isinstance(key, int) else str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (torch.Tensor, str, int, float)):
        return value
    return str(value)


def task_containers(module: nn.Module) -> list[str]:
    """Names of the dictionaries in a module whose keys are task numbers.

    What an expert consists of follows from them, whatever parts it is given: tensor
    `<container>.<task>` and all below it.

    Example:
        >>> task_containers(nn.ModuleDict({"adapters": nn.ModuleDict({"0": nn.Linear(1, 1)})}))
        ['adapters']
    """
    return [
        name
        for name, one in module.named_modules()
        if isinstance(one, (nn.ModuleDict, nn.ParameterDict))
        and len(one)
        and all(key.isdigit() for key in one)
    ]


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    torch.save(dict(checkpoint), partial)
    os.replace(partial, path)
