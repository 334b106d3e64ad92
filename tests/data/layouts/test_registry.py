import typing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_pl.data.layouts.registry import LAYOUTS, LayoutName, check_name, task_groups
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
        (["../a"], "not a valid product name"),
        ([".."], "not a valid product name"),
        ([" "], "not a valid product name"),
        (["a\\b"], "not a valid product name"),
        (["line\nbreak"], "not a valid product name"),
        (["x" * 300], "at most 200 bytes"),
        ([["x" * 150, "y" * 150]], "longer than 200 bytes together"),
        (["a+b", ["a", "b"]], "one name"),
    ],
)
def test_bad_task_lists_are_refused(tasks: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_groups(tasks)


NAMES = [
    "a.b",
    "a b",
    "it's",
    'say "x"',
    "<script>alert(1)<|script>",
    "a..b",
    "..a",
    "ネジ",
    "[red]",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_folders_are_names_of_products(name: str) -> None:
    assert task_groups([name]) == [[name]]


@given(st.text(max_size=300))
@settings(max_examples=300)
def test_every_name_is_refused_or_that_of_a_file_in_the_folder(name: str) -> None:
    try:
        check_name(name)
    except DataError:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"00-{name}.ckpt.part"
        path.touch()
        assert path.parent.samefile(folder)
        assert [p.name for p in Path(folder).iterdir()] == [path.name]
