"""Calls that may block for long, outside of the threads that all parts share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class OwnThread:
    """Calls functions in threads of one part, one after another.

    A call that blocks, such as the read of a camera without a signal, delays no other part. Nor
    does it delay the end of the process.

    Args:
        name: The part.
    """

    def __init__(self, name: str) -> None:
        self.name, self._one = name, threading.Lock()

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function, and wait for its result."""
        done: Future[T] = Future()

        def work() -> None:
            with self._one:
                if not done.set_running_or_notify_cancel():
                    return
                try:
                    done.set_result(function(*arguments))
                except BaseException as error:  # it is raised in the caller
                    done.set_exception(error)

        threading.Thread(target=work, name=self.name, daemon=True).start()
        return await asyncio.wrap_future(done)
