import io
import logging

import pytest

from moleflow_pl._internal.console import NamesTable, log_table, print_table

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


def table_of(*names: str) -> NamesTable:
    """A table with a title that is wider than its names."""
    table = NamesTable("name", title="the names of products")
    for name in names:
        table.add_row(name)
    return table


def test_a_logged_table_is_the_text_that_a_pipe_gets(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    table = table_of(*NAMES)
    with caplog.at_level("INFO"):
        log_table(logging.getLogger("moleflow_pl.somewhere"), table)
    assert capsys.readouterr().out == ""
    print_table(table)
    assert f"{caplog.messages[0]}\n" == capsys.readouterr().out


def test_a_table_that_nobody_shows_is_not_drawn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "moleflow_pl")  # Python's own, before a command changes it
    monkeypatch.setattr("moleflow_pl._internal.console.Console", None)
    log_table(logging.getLogger("moleflow_pl.somewhere"), table_of("a"))
