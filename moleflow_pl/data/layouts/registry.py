"""The layouts there are, and the list of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from moleflow_pl._internal.names import LONGEST_NAME, check_name
from moleflow_pl.data.layouts.base import IMAGE_SUFFIXES, ImageRecord, Layout
from moleflow_pl.data.layouts.elpv import ELPVLayout
from moleflow_pl.data.layouts.folder import FolderLayout
from moleflow_pl.data.layouts.mvtec import BTADLayout, MPDDLayout, MVTec2Layout, MVTecLayout
from moleflow_pl.data.layouts.visa import VisALayout
from moleflow_pl.errors import DataError
from moleflow_pl.tasks.schedule import GROUP_JOINT

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "BTADLayout",
    "ELPVLayout",
    "FolderLayout",
    "ImageRecord",
    "Layout",
    "LayoutName",
    "MPDDLayout",
    "MVTec2Layout",
    "MVTecLayout",
    "VisALayout",
    "task_groups",
]

LayoutName = Literal["mvtec", "mvtec2", "visa", "btad", "mpdd", "elpv", "folder"]
LAYOUTS: dict[str, Callable[[str | None], Layout]] = {
    layout.NAME: layout
    for layout in (
        MVTecLayout, MVTec2Layout, VisALayout, BTADLayout, MPDDLayout, ELPVLayout, FolderLayout,
    )
}  # fmt: skip


def task_groups(tasks: Iterable[str | int | list[str | int]]) -> list[list[str]]:
    """A task list as lists of product names, checked.

    Raises:
        DataError: no task, an empty group, a product named twice, or a name no file can have.

    Example:
        >>> task_groups(["leather", ["grid", "tile"]])
        [['leather'], ['grid', 'tile']]
    """
    groups = [
        [str(name) for name in (task if isinstance(task, list) else [task])] for task in tasks
    ]
    names = [name for group in groups for name in group]
    if not groups or not all(groups):
        raise DataError(
            f"data.tasks needs at least one product in every task, got {groups}: name the "
            "products, as in --data.tasks '[bottle, cable]'"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"data.tasks names {twice} more than once: each product is learned once")
    for group in groups:
        for name in group:
            check_name(name)
        if len(GROUP_JOINT.join(group).encode()) > LONGEST_NAME:
            raise DataError(
                f"the names of a task's products, {GROUP_JOINT.join(group)[:40]}…, are longer than "
                f"{LONGEST_NAME} bytes together, and its checkpoint is called by them: shorten them"
            )
    tasks_named = [GROUP_JOINT.join(group) for group in groups]
    if len(set(tasks_named)) < len(tasks_named):
        raise DataError(f"two tasks of data.tasks have one name: {tasks_named}")
    return groups
