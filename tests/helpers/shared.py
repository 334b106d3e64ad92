"""Runs that are made once and looked at by many tests, in whichever worker they run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], T]) -> T:
    """What `build` makes of a folder that all workers of pytest-xdist share.

    Args:
        factory: pytest's factory of temporary folders.
        name: Name of the folder.
        build: Makes the object; it finds out by itself that the folder is filled already. One
            worker builds at a time.

    References: "Making session-scoped fixtures execute only once", pytest-xdist's documentation.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers
    folder = root / name
    with FileLock(f"{folder}.lock"):
        folder.mkdir(exist_ok=True)
        return build(folder)
