"""Valid product names: a name becomes part of file names."""

from __future__ import annotations

import unicodedata

from moleflow_pl.errors import DataError

LONGEST_NAME = 200  # bytes: a file name also has a number and a suffix


def is_file_name(name: str) -> bool:
    r"""Whether a text can be part of a file name on any system and cannot leave its folder.

    Example:
        >>> is_file_name("metal nut"), is_file_name("../nut"), is_file_name("nut\n")
        (True, False, False)
    """
    printable = all(unicodedata.category(character) != "Cc" for character in name)
    encodable = not any(0xD800 <= ord(character) <= 0xDFFF for character in name)
    in_folder = name not in {"", ".", ".."} and not set(name) & set("/\\")
    return name == name.strip() and in_folder and printable and encodable


def check_name(name: str) -> None:
    """Check that a product name can name a folder and be part of a file name.

    Raises:
        DataError: the name is empty, starts or ends with a blank, is `.` or `..`, contains a slash,
            a backslash or a control character, or is longer than 200 bytes in UTF-8.

    Example:
        >>> check_name("Schraube M3 <b>'neu'</b>".replace("/", "|"))
    """
    if not (is_file_name(name) and len(name.encode()) <= LONGEST_NAME):
        excerpt = name if len(name) <= 40 else f"{name[:40]}…"
        raise DataError(
            f"{excerpt!r} is not a valid product name: it must name a folder in at most "
            f"{LONGEST_NAME} bytes, without slashes, control characters or blanks at its ends"
        )
