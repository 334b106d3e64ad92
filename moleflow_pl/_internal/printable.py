"""Names of files and products, made safe for terminals and spreadsheets.

A name may contain escape codes that a terminal obeys, line ends that fake a message, or a formula
that a spreadsheet runs. `printable` is for messages, `cell` for tables.
"""

from __future__ import annotations

import csv
import os
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from typing import IO, Any

# categories: control characters, surrogates, line and paragraph separators
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
# marks that change the direction of the text after them
DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are full-width


def printable(text: object) -> str:
    r"""A text on one line, with control characters and direction marks escaped.

    Example:
        >>> printable("\x1b[31mred\n\udcff")
        '\\x1b[31mred\\n\\udcff'
    """
    shown = str(text)
    if shown.isprintable():  # fast for long texts, and stricter than the checks below
        return shown
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in UNPRINTABLE or character in DIRECTIONS
        else character
        for character in shown
    )


def printable_lines(text: object) -> str:
    r"""As `printable`, for a message of several lines.

    Example:
        >>> printable_lines("a\n\x07b")
        'a\n\\x07b'
    """
    return "\n".join(map(printable, str(text).split("\n")))


def command_line(words: Iterable[str]) -> str:
    r"""Words of a command as a shell reads them, safe to print.

    Example:
        >>> command_line(["rm", "a b", "\x1b[31m\udcff'"])
        "rm 'a b' $'\\x1b[31m\\xff\\x27'"
    """
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """A word as a shell reads it; with unprintable characters, as bash, zsh and ksh read it."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(c if is_plain(c) else escaped(c) for c in word) + "'"


def is_plain(character: str) -> bool:
    """Whether a character stands for itself in `$'…'`."""
    return character.isprintable() and character not in "\\'"


def escaped(character: str) -> str:
    """The bytes of a character in a file name, as `$'…'` writes them."""
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def cell(value: Any) -> Any:
    """A value for a table that a spreadsheet may open: text that looks like a formula is quoted.

    Example:
        >>> cell("=1+1"), cell("-0.5"), cell(-0.5), cell("a=b")
        ("'=1+1", '-0.5', -0.5, 'a=b')
    """
    if not isinstance(value, str):
        return value
    formula = value.startswith(FORMULA_STARTS) and not is_number(value)
    return f"'{printable(value)}" if formula else printable(value)


def is_number(text: str) -> bool:
    """Whether a text is a plain number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_cells(file: IO[str], rows: Iterable[Sequence[Any]]) -> None:
    """Append rows to a CSV file; None becomes an empty field."""
    csv.writer(file).writerows([cell(value) for value in row] for row in rows)
