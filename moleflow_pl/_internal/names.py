"""What a product may be called: its name becomes part of files' names."""

from __future__ import annotations

import unicodedata

from moleflow_pl.errors import DataError

LONGEST_NAME = 200  # bytes: a checkpoint's file has a number and an ending as well


def is_file_name(name: str) -> bool:
    r"""Whether a text can be part of a file's name, here and elsewhere, and stays in its folder.

    Example:
        >>> is_file_name("metal nut"), is_file_name("../nut"), is_file_name("nut\n")
        (True, False, False)
    """
    printable = all(unicodedata.category(character) != "Cc" for character in name)
    encodable = not any(0xD800 <= ord(character) <= 0xDFFF for character in name)
    good = name == name.strip() and name not in {"", ".", ".."} and not set(name) & set("/\\")
    return good and printable and encodable


def check_name(name: str) -> None:
    """Refuse what cannot be both a folder's name and part of a file's.

    Raises:
        DataError: empty or blank at an end, `.` or `..`, with a slash, a backslash or a control
            character, or longer than 200 bytes in UTF-8.

    Example:
        >>> check_name("Schraube M3 <b>'neu'</b>".replace("/", "|"))
    """
    if not (is_file_name(name) and len(name.encode()) <= LONGEST_NAME):
        shown = name if len(name) <= 40 else f"{name[:40]}…"
        raise DataError(
            f"{shown!r} is no name for a product: it has to be a folder's name of at most "
            f"{LONGEST_NAME} bytes, without slashes, control characters and blanks at its ends"
        )
