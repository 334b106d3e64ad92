"""Writing files atomically: a file is complete or unchanged, and a failure names it."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any

from moleflow_pl.errors import DataError, OutputError

PARTIAL = ".part"  # suffix of a file that is still being written
PARTIAL_NAME = re.compile(r".+\.[0-9a-f]{8}\.part", re.DOTALL)  # see `partial_of`
LONGEST_NAME = 255  # bytes of a file name on the usual disks
FILE, FOLDER = "a file", "a folder"
BROKEN = "a link to nothing"
ELSEWHERE = "choose another place (trainer.default_root_dir, or --output)"
REMEDIES = {
    errno.ENOSPC: f"make room there, or {ELSEWHERE}",
    errno.EDQUOT: f"make room within your quota, or {ELSEWHERE}",
    errno.EACCES: f"allow writing there, or {ELSEWHERE}",
    errno.EPERM: f"allow writing there, or {ELSEWHERE}",
    errno.EROFS: f"the disk is read-only: {ELSEWHERE}",
    errno.ENAMETOOLONG: "the name is too long for this disk: shorten it, or the product's name",
    errno.ELOOP: f"a link in it leads back to itself: correct the link, or {ELSEWHERE}",
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
        raise OutputError(
            f"{failure(path, error)}. Files saved before are "
            "complete: resume a fit from them with --ckpt_path <run>/last.ckpt"
        ) from error


def failure(path: Path | str, error: OSError) -> str:
    """A failure to write a file, with its remedy, in words."""
    remedy = REMEDIES.get(error.errno or 0, "check the disk")
    return f"cannot write {path}: {error.strerror or error}; {remedy}"


def regular(path: Path | str) -> Path:
    """Return a path if it is a regular file; every read goes through this check.

    Reading a pipe would block, and a device may never end.

    Raises:
        OSError: the path is missing, or is a folder, pipe or device; `strerror` says which.
    """
    mode = os.stat(path).st_mode
    if not S_ISREG(mode):
        raise OSError(errno.EINVAL, f"not a file but {kind_of(mode)}", str(path))
    return Path(path)


def kind_of(mode: int) -> str:
    """What the mode of a path says that it is, in words."""
    if S_ISREG(mode):
        return FILE
    return FOLDER if S_ISDIR(mode) else "a pipe or a device"


def kind_at(path: Path) -> str | None:
    """What is at a path or at the end of its links, in words; None for nothing.

    Raises:
        OutputError: the path cannot be looked at, so nothing can be written there.
    """
    try:
        return kind_of(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return BROKEN if os.path.islink(path) else None
    except OSError as error:
        raise OutputError(failure(path, error)) from error


def replaceable(path: Path) -> Path:
    """Return a path if a file can be written there; every write of a whole file checks it.

    Writing replaces what is at the path, which would destroy a pipe or a device. Commands check
    their output before any work.

    Raises:
        OutputError: the path is a folder, pipe or device, also by a link, or its name is too long.
    """
    kind = kind_at(path)
    if kind not in (None, FILE, BROKEN):
        raise OutputError(
            f"cannot write {path}: it is not a file but {kind}; move it away, or choose another "
            "file"
        )
    require_folder(path.parent)
    require_short(partial_of(path))
    return path


def require_folder(folder: Path) -> None:
    """Check that a folder is there or can be created.

    Raises:
        OutputError: something else is in its place or in that of a folder above it, or a name is
            too long.
    """
    for place in (folder, *folder.parents):
        kind = kind_at(place)
        if kind == FOLDER:
            return
        if kind is not None:
            what = "it" if place == folder else place
            raise OutputError(
                f"cannot write to the folder {folder}: {what} is {kind}; move it away, or choose "
                "another folder"
            )
        require_short(place)


def require_short(path: Path) -> None:
    """Check that a name fits the disk.

    Raises:
        OutputError: the name has too many bytes.
    """
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        too_long = OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        raise OutputError(failure(path, too_long))


def token() -> str:
    """A random part for a file name, so that no two writers share one."""
    return secrets.token_hex(4)


def partial_of(path: Path) -> Path:
    """A temporary name beside a path, for a file that is still being written."""
    return path.with_name(f"{path.name}.{token()}{PARTIAL}")


def is_partial(path: Path) -> bool:
    """Whether a name is one of `partial_of`: other programs leave files that end in `.part` too.

    Example:
        >>> is_partial(Path("last.ckpt.0123abcd.part")), is_partial(Path("film.part"))
        (True, False)
    """
    return PARTIAL_NAME.fullmatch(path.name) is not None


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
    partial = partial_of(replaceable(path))
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
