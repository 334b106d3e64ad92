"""The layouts by name, and the check of a task list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moleflow_pl._internal.names import LONGEST_NAME, check_name
from moleflow_pl._internal.registry import Registry
from moleflow_pl.data.layouts.base import Layout
from moleflow_pl.errors import ConfigError, DataError
from moleflow_pl.tasks.schedule import GROUP_JOINT, MOST_PRODUCTS

# builds a layout from `data.root`: a folder, or a folder by product
LAYOUTS: Registry[Callable[[Any], Layout]] = Registry("layout")


def task_groups(tasks: Iterable[str | int | list[str | int]]) -> list[list[str]]:
    """Turn a task list into lists of product names, and validate them.

    Raises:
        DataError: the argument is not a list of names or groups, has no or too many products, or a
            name is invalid or repeated.

    Example:
        >>> task_groups(["leather", ["grid", "tile"]])
        [['leather'], ['grid', 'tile']]
    """
    if isinstance(tasks, (str, bytes, Mapping)) or not isinstance(tasks, Iterable):
        raise DataError(
            f"data.tasks must be a list of names such as ['bottle', 'cable'], got {tasks!r}"
        )
    listed = [list(task) if isinstance(task, (list, tuple)) else [task] for task in tasks]
    foreign = [name for group in listed for name in group if type(name) not in (str, int)]
    if foreign:
        raise DataError(f"data.tasks must hold names and lists of names, got {foreign[0]!r}")
    groups = [[str(name) for name in group] for group in listed]
    names = [name for group in groups for name in group]
    if not groups or not all(groups):
        raise DataError(
            f"data.tasks needs at least one product in every task, got {groups}: name the "
            "products, as in --data.tasks '[bottle, cable]'"
        )
    if len(names) > MOST_PRODUCTS:
        raise DataError(
            f"data.tasks names {len(names)} products, and at most {MOST_PRODUCTS} are allowed"
        )
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        raise DataError(f"data.tasks names {duplicates} more than once: name each product once")
    for group in groups:
        for name in group:
            check_name(name)
        if len(GROUP_JOINT.join(group).encode()) > LONGEST_NAME:
            raise DataError(
                f"the names of a task's products, {GROUP_JOINT.join(group)[:40]}…, are longer than "
                f"{LONGEST_NAME} bytes together, and its checkpoint is named by them: shorten them"
            )
    task_names = [GROUP_JOINT.join(group) for group in groups]
    if len(set(task_names)) < len(task_names):
        raise DataError(
            f"two tasks of data.tasks have the same name: {task_names}; rename a product"
        )
    return groups


def require_products(what: str, named: Iterable[str], groups: Iterable[Iterable[str]]) -> None:
    """Check that an argument by product names products of the task list, if there is one.

    Raises:
        ConfigError: a product is unknown.

    Example:
        >>> require_products("data.roi has masks for", ["a"], [["a"], ["b"]])
    """
    products = [name for group in groups for name in group]
    unknown = [name for name in named if name not in products]
    if unknown and products:
        raise ConfigError(f"{what} {unknown}, which are not among the products {products}")
