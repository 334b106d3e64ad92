"""Progress of the steps of a long command: a bar for each, or the one bar of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TextIO

from tqdm.auto import tqdm

from moleflow_pl._internal.logs import is_first_process

Advance = Callable[[int], object]
# (title, kind, number of items, what they are) -> a context that gives a function to count them
Show = Callable[[str, str, int, str], AbstractContextManager[Advance]]


@contextmanager
def bar_per_step(title: str, kind: str, total: int, unit: str) -> Iterator[Advance]:
    """Show a step with its own bar, or none while rich draws another, such as Lightning's.

    In a notebook the two would overwrite each other without end.
    """
    from rich.file_proxy import FileProxy  # imported only where a bar may be shown

    shown = is_first_process() and can_draw(sys.stderr) and not isinstance(sys.stderr, FileProxy)
    with tqdm(total=total, desc=title, unit=unit, disable=not shown) as bar:
        yield bar.update


def can_draw(stream: TextIO) -> bool:
    """Whether a bar can be drawn: on a terminal or in a notebook, but not into a file or a pipe."""
    notebook = any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__)
    return notebook or stream.isatty()


@contextmanager
def no_bar(title: str, kind: str, total: int, unit: str) -> Iterator[Advance]:
    """Show no progress for a step."""
    yield lambda count: None


_show: ContextVar[Show] = ContextVar("show", default=bar_per_step)


@contextmanager
def showing_steps(show: Show) -> Iterator[None]:
    """Show the steps of the block with another function."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def step(
    title: str, kind: str = "", total: int = 0, unit: str = "image"
) -> AbstractContextManager[Advance]:
    """A context for a step; call the function it gives with the number of finished items.

    Args:
        title: What the step does, with the product's name.
        kind: Steps of one kind take about the same time per item, whatever the product.
        total: Number of items.
        unit: What an item is.

    Example:
        >>> with showing_steps(no_bar), step("test of a", "test", 3) as advance:
        ...     advance(1)
    """
    return _show.get()(title, kind, total, unit)
