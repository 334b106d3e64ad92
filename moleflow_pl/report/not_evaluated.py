"""Learned products that the last evaluation left out, because their images were not found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moleflow_pl._internal.printable import printable
from moleflow_pl.tasks.schedule import Task

NOT_TESTED = "not tested again, because no test images were found"
NOT_EVALUATED = "not evaluated, because no images were found"


def not_evaluated(tasks: Sequence[Task]) -> dict[str, str]:
    """Names of the tasks that the last evaluation left out, with the reason.

    A task that never had test images counts as evaluated if its good images were.

    Args:
        tasks: The learned tasks; the last one has been evaluated.
    """
    last = tasks[-1].evaluation
    assert last is not None
    left_out = {}
    for task, routed, good_images in zip(
        tasks, last["confusion"], last["good_images"], strict=True
    ):
        if task.replaced or any(routed):
            continue
        if task.oracle_scores is not None:
            left_out[task.name] = NOT_TESTED
        elif good_images is None:
            left_out[task.name] = NOT_EVALUATED
    return left_out


def in_lines(left_out: Mapping[str, str]) -> list[str]:
    """One line for each reason, with the names that it holds for.

    Example:
        >>> in_lines({"a": NOT_EVALUATED, "b": NOT_EVALUATED})
        ['not evaluated, because no images were found: a, b']
    """
    return [
        f"{reason}: {', '.join(printable(name) for name, why in left_out.items() if why == reason)}"
        for reason in dict.fromkeys(left_out.values())
    ]
