"""What a checkpoint says of itself, whether it fits a model, and how it gets to the disk."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_pl._internal.files import replacing
from moleflow_pl.checkpoints.run_folder import LAST, TASKS
from moleflow_pl.checkpoints.schema import STATE_KEY, check_checkpoint
from moleflow_pl.errors import CheckpointError, MoLEFlowError

SAID_LATER = ("score", "image_quantile")  # files say them since a score is a distance
UNSAID = {"image_score": "quantile"}  # what was so before files said it, whatever is now


def read_checkpoint(path: Path, mmap: bool = True) -> dict[str, Any]:
    """Load a checkpoint without running anything it may hold.

    Args:
        path: The file.
        mmap: Leave its tensors on disk until they are asked for.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint of this project; the message
            offers the one before it in the same run.
    """
    if not path.is_file():
        hint = offer(path) or ": a run keeps its own as RUN/last.ckpt and RUN/tasks/*.ckpt"
        raise CheckpointError(f"no checkpoint at {path}{hint}")
    try:
        checkpoint = load_plain(path, mmap)
    except Exception as error:  # the bytes of a foreign file can break a reader in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is damaged or no checkpoint: {reason}{offer(path)}"
        ) from error
    try:
        check_checkpoint(checkpoint if isinstance(checkpoint, dict) else {})
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}{offer(path)}") from error
    return checkpoint


def unsaid(file: Any) -> dict[str, Any]:
    """Arguments of `MoLEFlow` that a checkpoint does not say, as they were before files did.

    Args:
        file: Its path, or an open file; nothing is asked of one that is not on this machine.
    """
    opened = not isinstance(file, (str, os.PathLike))
    if not opened and not Path(file).is_file():
        return {}
    said = load_plain(file, mmap=not opened).get(STATE_KEY, {}).get("structure", {})
    if opened:
        file.seek(0)
    return {name: value for name, value in UNSAID.items() if name not in said}


def load_plain(path: Any, mmap: bool = True) -> Any:
    """What a file written by torch holds, if that is plain data; no code of it runs."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def earlier(path: Path) -> Path | None:
    """The newest checkpoint of the same run that comes before one and can be read."""
    folder = path.parent if path.parent.name == TASKS else path.parent / TASKS
    found = sorted(folder.glob("*.ckpt"), reverse=True)
    before = [other for other in found if other != path and (path.name == LAST or other < path)]
    return next((other for other in before if readable(other)), None)


def readable(path: Path) -> bool:
    """Whether a file is a checkpoint of this project, whole and plain."""
    try:
        check_checkpoint(load_plain(path))
    except Exception:
        return False
    return True


def offer(path: Path) -> str:
    """What a message about a checkpoint that cannot be used ends with."""
    before = earlier(path)
    return "" if before is None else f"; the one before it can be used: --ckpt_path {before}"


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all, and onto the disk.

    Raises:
        OutputError: it cannot be written; the one that was there is as it was.
    """
    buffer = io.BytesIO()  # torch's own writer hides what went wrong with the disk
    torch.save(dict(checkpoint), buffer)
    with replacing(path, "wb") as file:
        file.write(buffer.getbuffer())


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
        CheckpointError: it is not whole, or describes another backbone or another structure.
    """
    check_checkpoint(checkpoint)
    state = dict(checkpoint[STATE_KEY])
    other = differences(state["backbone"], backbone)
    if other:
        raise CheckpointError(
            f"the checkpoint was made on another backbone ({other}): its experts mean nothing to "
            "this one; set the model's backbone arguments as they were"
        )
    stored, structure = UNSAID | state["structure"], UNSAID | dict(structure)
    later = [key for key in SAID_LATER if key not in stored]
    other = differences(stored, {k: v for k, v in structure.items() if k not in later})
    if other:
        raise CheckpointError(
            f"the checkpoint has other model arguments ({other}): its tensors and thresholds hold "
            "for its own; leave them as they were, or start a new run without --ckpt_path"
        )
    return state


def check_tensors(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of a model.

    Raises:
        CheckpointError: one lacks, is too many or has another shape.
    """
    shapes = [{key: list(one.shape) for key, one in part.items()} for part in (stored, own)]
    other = differences(*shapes)
    if other:
        raise CheckpointError(f"the checkpoint's tensors are not the model's ({shortened(other)})")


def shortened(text: str, longest: int = 300) -> str:
    """The beginning of a long text.

    Example:
        >>> shortened("abcdef", 3)
        'abc…'
    """
    return text if len(text) <= longest else f"{text[:longest]}…"


@contextmanager
def restoring(file: Any) -> Iterator[None]:
    """Name the checkpoint where building a model from it fails for its content.

    Args:
        file: Its path, or an open file.

    Raises:
        CheckpointError: it does.
    """
    try:
        yield
    except (MoLEFlowError, OSError):
        raise
    except Exception as error:  # what another program wrote can break a reader in any way
        reason = f"{type(error).__name__}: {shortened(' '.join(str(error).split()))}"
        path = Path(file) if isinstance(file, (str, Path)) else None
        before = "" if path is None else offer(path)
        raise CheckpointError(f"{path or 'the checkpoint'} is damaged: {reason}{before}") from error


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
