"""Finds calls that block an event loop: of the database, and of files."""

import asyncio
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

FILE_CALLS = {
    "open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir",
    "shutil.rmtree",
}  # fmt: skip
_listeners: list["Listener"] = []


class Listener:
    """Notes what is called in threads that run an event loop.

    Args:
        folder: Where files count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = str(folder), list[str]()

    def file(self, call: str, path: object) -> None:
        """Note a call with a path."""
        if isinstance(path, str | Path) and str(path).startswith(self.folder):
            self.note(f"{call} {path}")

    def statement(self, connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        """Note a statement of the database."""
        self.note(statement.partition("\n")[0])

    def note(self, call: str) -> None:
        if asyncio._get_running_loop() is not None:
            ours = [one for one in traceback.extract_stack() if "moleflow_pl" in one.filename]
            self.found.append(f"{call}, at {ours[-1] if ours else 'nothing of ours'}")


def hear(call: str, arguments: tuple[Any, ...]) -> None:
    """Pass the interpreter's audit events of files on; such a hook cannot be removed."""
    if _listeners and call in FILE_CALLS:
        for one in _listeners:
            one.file(call, arguments[0])


sys.addaudithook(hear)


@contextmanager
def blocking_calls(folder: Path) -> Iterator[list[str]]:
    """Collect calls of any database, and of files below a folder, that block an event loop."""
    listener, stat = Listener(folder), os.stat

    def heard_stat(path: Any, *words: Any, **options: Any) -> os.stat_result:
        listener.file("stat", path)
        return stat(path, *words, **options)

    _listeners.append(listener)
    event.listen(Engine, "before_cursor_execute", listener.statement)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "stat", heard_stat)
            yield listener.found
    finally:
        event.remove(Engine, "before_cursor_execute", listener.statement)
        _listeners.remove(listener)
