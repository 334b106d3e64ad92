"""Names of the heatmaps, maps and masks of `predict`, and their removal with their rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from moleflow_pl._internal.files import read_json, write_text, writing
from moleflow_pl._internal.names import output_file
from moleflow_pl._internal.result_names import PICTURE_NAMES_FILE
from moleflow_pl.errors import DataError


def write_names(folder: Path, names: Mapping[str, str]) -> None:
    """Write the names of pictures, before any of them is written.

    Args:
        folder: The folder of the predictions.
        names: Name without suffix, by the key of the image.
    """
    write_text(folder / PICTURE_NAMES_FILE, json.dumps(names))


def read_names(folder: Path) -> dict[str, str]:
    """Read what `write_names` wrote; empty without a file.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / PICTURE_NAMES_FILE
    names = read_json(path) if path.is_file() else {}
    for name in names.values():
        # pictures are removed by these names: none may lead elsewhere
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{path} is damaged: {name!r} is not the name of a picture")
    return names


def remove_pictures(folder: Path, names: Iterable[str], endings: Mapping[str, str]) -> None:
    """Remove pictures, and the folders that become empty.

    Args:
        folder: The folder of the predictions.
        names: Names without suffixes.
        endings: Suffix of the pictures of each kind, by the folder of the kind.
    """
    for name in names:
        for kind, suffix in endings.items():
            picture = output_file(folder / kind, name, suffix)
            with writing(picture), suppress(FileNotFoundError, NotADirectoryError):
                picture.unlink()
                remove_empty(picture.parent, folder)


def remove_empty(folder: Path, root: Path) -> None:
    """Remove an empty folder and those above it that become empty, below a root."""
    with suppress(OSError):  # one that holds something
        while folder != root:
            folder.rmdir()
            folder = folder.parent
