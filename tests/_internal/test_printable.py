import csv
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moleflow_pl._internal.printable import cell, printable, printable_lines, write_cells


@given(st.text())
def test_what_is_printed_is_one_line_without_a_control_character(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    "name", ["a b.png", "Schraube_é.png", "ネジ.png", "👩\u200d🔧.png", "[bold]x"]
)
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert printable(name) == cell(name) == name


def test_marks_that_turn_the_order_of_a_name_are_written_out() -> None:
    assert printable("gpj.\u202egnp") == r"gpj.\u202egnp"


def test_a_message_keeps_its_lines() -> None:
    assert printable_lines("a\r\n\x1b[2Jb") == "a\\r\n\\x1b[2Jb"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_cell_begins_like_a_formula(start: str) -> None:
    value = cell(f"{start}cmd|' /C calc'!A0")
    assert value.startswith("'")
    assert cell(value) == value


@pytest.mark.parametrize("value", [-1.5, 0, None, "-1.5", "+2", "-inf", "1e-3"])
def test_a_number_stays_a_number(value: object) -> None:
    assert cell(value) == value


@pytest.mark.parametrize("outlet", ["csv.writer(", "Console(", " = Table(", "class NamesTable("])
def test_names_are_printed_by_one_function_of_each_kind(outlet: str) -> None:
    package = Path(__file__).parents[2] / "moleflow_pl"
    places = [p for p in package.rglob("*.py") if outlet in p.read_text("utf-8")]
    own = [p.name for p in places if p.parent.name == "_internal"]
    assert len(places) == len(own) <= 1


def test_rows_are_written_with_safe_cells() -> None:
    file = io.StringIO()
    write_cells(file, [["=a", -1.0, None], ["b\n", "c,d", "-x"]])
    file.seek(0)
    assert list(csv.reader(file)) == [["'=a", "-1.0", ""], ["b\\n", "c,d", "'-x"]]
