"""Steps of a long command, and who shows them: a bar for each, or the one bar of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from tqdm.auto import tqdm

from moleflow_pl._internal.logs import is_first_process

Advance = Callable[[int], object]
# (what the step is, its kind, how many things it has, what they are) -> a context in which to count
Show = Callable[[str, str, int, str], AbstractContextManager[Advance]]


@contextmanager
def with_own_bar(title: str, kind: str, total: int, unit: str) -> Iterator[Advance]:
    """Show a step by a bar of its own; by none while rich draws, such as Lightning's bar.

    In a notebook the two would write through one another without end.
    """
    from rich.file_proxy import FileProxy  # not where nothing is shown

    hidden = not is_first_process() or isinstance(sys.stderr, FileProxy)
    with tqdm(total=total, desc=title, unit=unit, disable=hidden) as bar:
        yield bar.update


@contextmanager
def unseen(title: str, kind: str, total: int, unit: str) -> Iterator[Advance]:
    """Show nothing of a step."""
    yield lambda count: None


_show: ContextVar[Show] = ContextVar("show", default=with_own_bar)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Let someone else show the steps within."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def step(
    title: str, kind: str = "", total: int = 0, unit: str = "image"
) -> AbstractContextManager[Advance]:
    """A step, as a context; call what it gives with the number of things that are done.

    Args:
        title: What is done, with the product's name.
        kind: What takes about as long for each thing, whatever the product.
        total: How many things there are.
        unit: What they are.

    Example:
        >>> with shown_by(unseen), step("test of a", "test", 3) as advance:
        ...     advance(1)
    """
    return _show.get()(title, kind, total, unit)
