import pytest

from moleflow_pl.data.layouts.registry import LAYOUTS, task_groups
from moleflow_pl.errors import DataError


def test_importing_the_package_gives_every_layout() -> None:
    names = {"mvtec", "mvtec2", "visa", "btad", "mpdd", "elpv", "folder"}
    assert set(LAYOUTS) >= names  # others may have added theirs
    assert {LAYOUTS[name].name for name in names} == names


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
        (["a+b", ["a", "b"]], "same name"),
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


@pytest.mark.parametrize("tasks", ["aa", "01", {"a": 1}, 5, None])
def test_invalid_task_list_is_an_error(tasks: object) -> None:
    with pytest.raises(DataError, match="data.tasks must be a list of names such as"):
        task_groups(tasks)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, 1.5, b"a", ["b"], True])
def test_invalid_name_is_an_error(name: object) -> None:
    with pytest.raises(DataError, match="must hold names and lists of names, got"):
        task_groups([["a", name]])  # type: ignore[list-item]
