"""Files below a folder; links to folders are followed, and each folder is entered once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from itertools import takewhile
from pathlib import Path

from moleflow_pl._internal.printable import printable

logger = logging.getLogger(__name__)

ANY_DEPTH = "**"


def files_below(
    folder: Path, hidden: bool = False, leave_out: Callable[[Path], bool] = lambda folder: False
) -> Iterator[Path]:
    """Yield all files below a folder, those behind links to folders last.

    Links that lead to an entered folder, or to a parent of the first, are not followed.

    Args:
        folder: The first folder.
        hidden: Whether to yield hidden files and those in hidden folders.
        leave_out: Whether a folder below is not entered.
    """
    entered: set[tuple[int, int]] = set()
    around = {identity for parent in folder.resolve().parents if (identity := identity_of(parent))}
    waiting = [folder]
    while waiting:
        for where, folders, files in os.walk(waiting.pop(0), onerror=warn_unreadable):
            identity = identity_of(where)
            if identity is None or identity in entered | around:
                folders.clear()
                continue
            entered.add(identity)
            place = Path(where)
            kept = [
                name
                for name in sorted(folders)
                if (hidden or not name.startswith(".")) and not leave_out(place / name)
            ]
            linked = [name for name in kept if (place / name).is_symlink()]
            waiting += [place / name for name in linked]
            folders[:] = [name for name in kept if name not in linked]
            yield from (place / n for n in sorted(files) if hidden or not n.startswith("."))


def warn_unreadable(error: OSError) -> None:
    """Warn that a folder cannot be read, unless it has disappeared meanwhile."""
    if not isinstance(error, FileNotFoundError):
        logger.warning(
            f"cannot read the folder {printable(error.filename)}: {error.strerror}; its files are "
            "left out"
        )


def identity_of(folder: str | Path) -> tuple[int, int] | None:
    """Device and inode of a folder, independent of its name; None if it is gone."""
    try:
        stat = os.stat(folder)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def leads_back(link: Path) -> bool:
    """Whether a path is a link to one of its own parents."""
    if not link.is_symlink():
        return False
    parent, target = link.parent.resolve(), link.resolve()
    return target == parent or target in parent.parents


def base_of(pattern: str) -> Path:
    """The longest folder before the first wildcard of a pattern.

    Example:
        >>> base_of("in/2024/**/*.png").as_posix()
        'in/2024'
    """
    parts = Path(pattern).parts[:-1]
    return Path(*takewhile(lambda part: not has_magic(part), parts))


def common_folder(paths: Iterable[Path]) -> Path:
    """The deepest folder that holds all of some files.

    Example:
        >>> common_folder([Path("in/a/1.png"), Path("in/b/1.png")]).as_posix()
        'in'
    """
    return Path(os.path.commonpath([path.parent for path in paths]))


def matches_pattern(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match a pattern, in which `**` is any number of folders.

    Example:
        >>> matches_pattern(("a", "b", "1.png"), ("**", "*.png"))
        True
        >>> matches_pattern(("a", "1.png"), ("*.png",))
        False
    """
    if not pattern or not parts:
        return not parts and all(part == ANY_DEPTH for part in pattern)
    if pattern[0] == ANY_DEPTH:
        return matches_pattern(parts, pattern[1:]) or matches_pattern(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and matches_pattern(parts[1:], pattern[1:])
