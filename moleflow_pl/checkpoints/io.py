"""Read and write checkpoints: atomically, and without running any code in them.

A file is sealed: it carries a hash over its contents, and is refused if the two disagree. In memory
a checkpoint has no seal, since it may be edited. With a key, the seal is signed too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from moleflow_pl._internal.files import replacing
from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.schema import SEAL, require_seal
from moleflow_pl._internal.signing import SIGNATURE, require_signature, sign
from moleflow_pl._internal.torch_files import load_plain, require_plain, require_stored
from moleflow_pl._internal.upgrade import Kind, upgrade
from moleflow_pl.checkpoints.finite import require_finite
from moleflow_pl.checkpoints.run_folder import LAST, RunFolder
from moleflow_pl.checkpoints.schema import (
    STATE_KEY,
    one_line,
    unsealed,
    validate_contents,
)
from moleflow_pl.errors import CheckpointError, MoLEFlowError, raise_if_out_of_memory


def read_checkpoint(path: Path, mmap: bool = True) -> dict[str, Any]:
    """Load a checkpoint without running any code in it.

    Args:
        path: The file.
        mmap: Leave its tensors on disk until they are used.

    Raises:
        CheckpointError: the file is missing, or not a checkpoint of this project; the
            message offers the one before it in the same run.
    """
    with reading_checkpoint(path, mmap) as checkpoint:
        return checkpoint


@contextmanager
def reading_checkpoint(path: Path, mmap: bool = True) -> Iterator[dict[str, Any]]:
    """Load a checkpoint as `read_checkpoint` does, for work that does not wait for its hash.

    Another thread checks the hash and the values of the tensors. The result of the block counts
    only if the block ends without an error.

    Raises:
        CheckpointError: as `read_checkpoint`. If the file is damaged, it replaces any error of the
            block, whose cause is the damage.
    """
    content = load_content(path, mmap)
    with refusing(path):
        to_current_schema(content)  # first: a foreign file is not a damaged one
    bare = without_seal(content)
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(require_undamaged, content, bare)
        try:
            with refusing(path):
                checkpoint = validate_checkpoint(bare)
            yield checkpoint
        finally:
            with refusing(path):
                checked.result()


def load_content(path: Path, mmap: bool) -> Any:
    """The plain data and tensors of a file.

    Raises:
        CheckpointError: the file is missing, or cannot be read.
    """
    if path.is_dir() or not path.exists():
        hint = offer(path) or ": a run keeps them as RUN/last.ckpt and RUN/tasks/*.ckpt"
        raise CheckpointError(f"no checkpoint at {path}{hint}")
    try:
        return load_plain(path, mmap)
    except Exception as error:  # a foreign file can break a reader in any way
        reason = one_line(error).split(". ")[0]  # torch adds advice to run the file's code
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint: {reason}{offer(path)}"
        ) from error


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Name the file that an error is about, and offer the checkpoint before it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}{offer(path)}") from error


def open_sealed(content: Any) -> dict[str, Any]:
    """Check seal and contents of what a file holds, and return the checkpoint.

    Raises:
        CheckpointError: the file is not this project's, of another schema, damaged, or incomplete.
    """
    to_current_schema(content)
    bare = without_seal(content)
    require_undamaged(content, bare)
    return validate_checkpoint(bare)


def require_undamaged(content: Mapping[str, Any], bare: Mapping[str, Any]) -> None:
    """Check the hash of what a file holds, and that its tensors are finite.

    Raises:
        CheckpointError: the file is damaged, or holds NaN or infinity.
    """
    require_written(content, content_hash(bare))
    tensors = bare.get("state_dict")
    if isinstance(tensors, Mapping):  # else `validate_checkpoint` refuses it
        require_finite(tensors)


def require_written(content: Mapping[str, Any], actual: str) -> None:
    """Check that the content of a file has the hash, and the signature, that it was written with.

    Raises:
        CheckpointError: the hash or the signature differs, or is missing.
    """
    state = content[STATE_KEY]
    require_seal(state.get(SEAL), actual, "it")
    require_signature(state.get(SIGNATURE), state.get(SEAL), "it")


def without_seal(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without its seal, as it is in memory."""
    return {**checkpoint, STATE_KEY: unsealed(checkpoint[STATE_KEY])}


def with_seal(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint with its seal, as a file holds it."""
    bare = without_seal(checkpoint)
    seal = content_hash(bare)
    return {**bare, STATE_KEY: {**bare[STATE_KEY], SEAL: seal, **sign(seal)}}


def to_current_schema(content: Any) -> dict[str, Any]:
    """Upgrade a checkpoint of any schema to the current one.

    Raises:
        CheckpointError: the content is no checkpoint, or of a schema that is not readable.
    """
    state = content.get(STATE_KEY) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError("this is not a MoLE-Flow checkpoint: it has no entry 'moleflow'")
    return {**content, STATE_KEY: upgrade(Kind.CHECKPOINT, state, "it")}


def validate_checkpoint(content: Any) -> dict[str, Any]:
    """Upgrade and validate the contents of a file, and return the checkpoint.

    Raises:
        CheckpointError: the checkpoint is of another schema, or incomplete.
    """
    checkpoint = to_current_schema(content)
    validate_contents(checkpoint)
    return checkpoint


def verify(file: Any) -> None:
    """Check a file as `read_checkpoint` does, before another reader loads it.

    Args:
        file: Its path, or an open file, which keeps its position.

    Raises:
        CheckpointError: the file cannot be used.
    """
    if isinstance(file, (str, Path)):
        read_checkpoint(Path(file))
        return
    start = file.tell()
    open_sealed(load_plain(file, mmap=False))
    file.seek(start)


def earlier(path: Path) -> Path | None:
    """The newest readable checkpoint of the same run before a given one."""
    files = reversed(RunFolder.of(path).written_tasks)
    before = [other for other in files if other != path and (path.name == LAST or other < path)]
    return next((other for other in before if readable(other)), None)


def readable(path: Path) -> bool:
    """Whether a file is a valid checkpoint of this project."""
    try:
        open_sealed(load_plain(path))
    except Exception:
        return False
    return True


def offer(path: Path) -> str:
    """End of an error message about a checkpoint: an earlier one to use instead."""
    before = earlier(path)
    return "" if before is None else f"; the one before it can be used: --ckpt_path {before}"


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically, and flush it to the disk.

    Raises:
        CheckpointError: the new file could not be read again; an older file at `path` is unchanged.
        OutputError: the file cannot be written; an older file at `path` is unchanged.
    """
    validate_checkpoint(checkpoint)
    require_finite(checkpoint["state_dict"])
    buffer = io.BytesIO()  # torch's own writer hides disk errors
    sealed = with_seal(checkpoint)
    torch.save(sealed, buffer)
    require_stored(buffer)
    require_plain(sealed, buffer.getbuffer().nbytes)
    with replacing(path, "wb") as file:
        file.write(buffer.getbuffer())


@contextmanager
def restoring(file: Any) -> Iterator[None]:
    """Within the block, turn any failure to build a model into an error that names the checkpoint.

    Args:
        file: Its path, or an open file.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    try:
        yield
    except (MoLEFlowError, OSError):
        raise
    except Exception as error:  # a file of another program can break a reader in any way
        raise_if_out_of_memory(error)
        reason = f"{type(error).__name__}: {one_line(error)}"
        path = Path(file) if isinstance(file, (str, Path)) else None
        before = "" if path is None else offer(path)
        raise CheckpointError(f"{path or 'the checkpoint'} is damaged: {reason}{before}") from error


def plain(value: Any) -> Any:
    """Convert a value to dicts, lists, tensors, strings and numbers alone.

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
