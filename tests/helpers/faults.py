"""Disks that fail: every write of this process to a named place is refused."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = Path("/dev/full")  # every write to it finds no space
TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# the place and the error number; an audit hook stays for good, so there is one
plan: dict[str, int] = {}


def refuse(event: str, args: tuple) -> None:
    """Refuse to open for writing, to make or to rename what a plan names."""
    if not plan or event not in ("open", "os.mkdir", "os.rename"):
        return
    if event == "open" and not (args[2] or 0) & TO_WRITE:
        return
    target = args[1] if event == "os.rename" else args[0]
    for place, number in plan.items():
        if isinstance(target, (str, os.PathLike)) and place in os.fspath(target):
            raise OSError(number, os.strerror(number), os.fspath(target))


sys.addaudithook(refuse)


@contextmanager
def refused(place: Path | str, number: int) -> Iterator[None]:
    """Let every write to paths with `place` in them fail by an error number."""
    plan[str(place)] = number
    try:
        yield
    finally:
        plan.clear()


def full_at(path: Path) -> Path:
    """A path at which a file can be opened, and nothing written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(FULL)
    return path
