"""Writing files atomically: a file is complete or unchanged, and a failure names it."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any

from moleflow_pl.errors import DataError, OutputError

PARTIAL = ".part"  # suffix of a file that is still being written
ELSEWHERE = "choose another place (trainer.default_root_dir, or --output)"
REMEDIES = {
    errno.ENOSPC: f"make room there, or {ELSEWHERE}",
    errno.EDQUOT: f"make room within your quota, or {ELSEWHERE}",
    errno.EACCES: f"allow writing there, or {ELSEWHERE}",
    errno.EPERM: f"allow writing there, or {ELSEWHERE}",
    errno.EROFS: f"the disk is read-only: {ELSEWHERE}",
    errno.ENAMETOOLONG: "the name is too long for this disk: shorten the product's name",
}


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn a failure to write a file into one error that names it.

    Raises:
        OutputError: the disk is full, the folder read-only, or the like.
    """
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "check the disk")
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; {remedy}. Files saved before are "
            "complete: resume a fit from them with --ckpt_path <run>/last.ckpt"
        ) from error


def regular(path: Path | str) -> Path:
    """Return a path if it is a regular file; every read goes through this check.

    Reading a pipe would block, and a device may never end.

    Raises:
        OSError: there is no file, or it is a folder, pipe or device; `strerror` says which.
    """
    mode = os.stat(path).st_mode
    if not S_ISREG(mode):
        kind = "a folder" if S_ISDIR(mode) else "a pipe or a device"
        raise OSError(errno.EINVAL, f"not a file but {kind}", str(path))
    return Path(path)


def token() -> str:
    """A random part for a file name, so that no two writers share one."""
    return secrets.token_hex(4)


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that replaces `path` once all of it is on the disk.

    Args:
        path: The file; its folder is created if it is missing.
        mode: `w` for text in UTF-8, `wb` for bytes.

    Raises:
        OutputError: the file cannot be written; an older file at `path` is unchanged.
    """
    # file names may hold bytes that are not text; the csv module writes line ends itself
    text = {} if "b" in mode else {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    partial = path.with_name(f"{path.name}.{token()}{PARTIAL}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open(mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename survives a power failure where that is supported."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network disks refuse; the file itself is on the disk
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as file:
        file.write(text)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that the project wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise DataError(f"{path} is damaged: {reason}") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} is damaged: it must hold a JSON object, got {type(content).__name__}"
        )
    return content
