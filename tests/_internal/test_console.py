import io

import pytest

from moleflow_pl._internal.console import NamesTable, print_table

NAMES = ["[bold]x", "[red]a[/x]", ":smiley:", "\x1b[31mred", "[link=file:///etc]y[/link]"]


def shown(encoding: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a table of names prints to a terminal of an encoding."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "80")
    table = NamesTable("name")
    for name in [*NAMES, "Schraube_é", "ネジ"]:
        table.add_row(name)
    print_table(table)
    stream.flush()
    return buffer.getvalue().decode(encoding)


def test_a_name_in_a_table_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown("utf-8", monkeypatch)
    assert "\x1b" not in text
    for name in NAMES:
        assert name.replace("\x1b", r"\x1b") in text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_table_of_any_names_is_printed_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Schraube" in shown(encoding, monkeypatch)


def test_a_list_is_a_cell_of_several_lines_and_a_name_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = NamesTable("cell")
    table.add_row(["first", "second\nthird"])
    print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert sum("first" in line for line in lines) == 1
    assert sum(r"second\nthird" in line for line in lines) == 1
