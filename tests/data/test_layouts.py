import typing

import pytest

from moleflow_pl.data.layouts import LAYOUTS, LayoutName, task_groups
from moleflow_pl.errors import DataError


def test_every_layout_can_be_named_in_a_config() -> None:
    assert set(typing.get_args(LayoutName)) == set(LAYOUTS)


def test_task_list_may_hold_groups_and_numbers() -> None:
    assert task_groups(["a", ["b", 3], 7]) == [["a"], ["b", "3"], ["7"]]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one product"),
        ([[]], "at least one product"),
        (["a", ["b", "a"]], r"\['a'\] more than once"),
        (["../a"], "no name for a product"),
        ([".."], "no name for a product"),
        ([" "], "no name for a product"),
    ],
)
def test_bad_task_lists_are_refused(tasks: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_groups(tasks)
