"""Valid product names: a name becomes part of file names."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from moleflow_pl.errors import DataError

LONGEST_NAME = 200  # bytes: a file name also has a number and a suffix
USUAL_LIMITS = (255, 259)  # bytes of a file name and of a path, if the system reports none


def is_file_name(name: str) -> bool:
    r"""Whether a text can be part of a file name on any system and cannot leave its folder.

    Example:
        >>> is_file_name("metal nut"), is_file_name("../nut"), is_file_name("nut\n")
        (True, False, False)
    """
    printable = all(unicodedata.category(character) != "Cc" for character in name)
    in_folder = name not in {"", ".", ".."} and not set(name) & set("/\\")
    return name == name.strip() and in_folder and printable and is_utf8(name)


def is_utf8(name: str) -> bool:
    r"""Whether a name can be written in UTF-8; on some systems, file names may hold other bytes.

    Example:
        >>> is_utf8("ä"), is_utf8("\udcff")
        (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_short_name(name: str) -> bool:
    """Whether a text can be part of a file name, with room for a suffix."""
    return is_file_name(name) and len(name.encode()) <= LONGEST_NAME


def check_name(name: str) -> None:
    """Check that a product name can name a folder and be part of a file name.

    Raises:
        DataError: the name is empty, starts or ends with a blank, is `.` or `..`, contains a slash,
            a backslash or a control character, or is longer than 200 bytes in UTF-8.

    Example:
        >>> check_name("Schraube M3 <b>'neu'</b>".replace("/", "|"))
    """
    if not is_short_name(name):
        excerpt = name if len(name) <= 40 else f"{name[:40]}…"
        raise DataError(
            f"{excerpt!r} is not a valid product name: it must name a folder in at most "
            f"{LONGEST_NAME} bytes, without slashes, control characters or blanks at its ends"
        )


def stems(
    names: Sequence[str], suffixes: Sequence[str] = (), settled: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Names without their suffixes, except where two outputs would be in each other's way.

    Args:
        names: Paths of inputs below their root.
        suffixes: What outputs add to a stem. No output has the name of a folder that others need.
        settled: Stems of some inputs that have outputs already.

    Example:
        >>> stems(["a.png", "b.png", "b.bmp"])
        {'a.png': 'a', 'b.png': 'b.png', 'b.bmp': 'b.bmp'}
        >>> stems(["x.png", "x.jpg/a.png"], [".jpg"])
        {'x.png': 'x.png', 'x.jpg/a.png': 'x.jpg/a'}
    """
    result = dict(settled or {})
    cut = {name: os.path.splitext(name)[0] for name in names}
    times, whole = Counter(cut.values()), set(names)
    folders = {folder for name in names for folder in folders_of(name)}
    used = set(result.values())
    files = {stem + suffix for stem in used for suffix in suffixes}

    def is_free(stem: str) -> bool:
        blocked = any(stem + suffix in folders for suffix in suffixes)
        return not blocked and stem not in used and files.isdisjoint(folders_of(stem))

    for name, stem in cut.items():
        if name not in result:
            unique = times[stem] == 1 and stem not in whole
            choices = (stem, name) if unique else (name,)
            # a name with a hash is in no other's way
            marked = f"{os.path.basename(name)}{mark_of(name)}"
            result[name] = next(filter(is_free, choices), marked)
    return result


def folders_of(name: str) -> list[str]:
    """The folders above a relative path.

    Example:
        >>> folders_of("a/b/c.png"), folders_of("c.png")
        (['a/b', 'a'], [])
    """
    return [str(folder) for folder in Path(name).parents][:-1]


def mark_of(name: str) -> str:
    """A short text that differs for every name."""
    return f"~{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}"


def output_file(folder: Path, name: str, suffix: str) -> Path:
    """The output file for an input: its relative name plus a suffix.

    A name that is too long for the disk is cut, and a hash of the whole name is added.

    Args:
        folder: Where outputs go.
        name: Path of the input below its own root, perhaps one of `stems`.
        suffix: End of the output's name.
    """
    longest, longest_path = name_limits(folder)
    target = folder / f"{name}{suffix}"
    fits_path = len(os.fsencode(target.absolute())) < longest_path
    if fits_path and len(os.fsencode(target.name)) <= longest:
        return target
    mark = f"{mark_of(name)}{suffix}"
    room = longest - len(mark) if fits_path else 0
    kept = os.fsencode(os.path.basename(name))[:room].decode("utf-8", "ignore")
    place = target.parent if fits_path else folder
    return place / f"{kept}{mark}"


def name_limits(folder: Path) -> tuple[int, int]:
    """The longest file name and the longest path in a folder, in bytes."""
    if not hasattr(os, "pathconf"):
        return USUAL_LIMITS
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if place.exists())
    return os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX")


def relative_names(paths: Sequence[str]) -> list[str]:
    """File names relative to their common folder, so that no path of this machine is stored.

    Example:
        >>> relative_names(["/data/a/good/1.png", "/data/b/good/1.png"])
        ['a/good/1.png', 'b/good/1.png']
        >>> relative_names(["/data/a/good/1.png"])
        ['1.png']
    """
    if not paths:
        return []
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Path(os.path.relpath(path, folder)).as_posix() for path in paths]
