"""Presets: the configurations that come with the package.

Add a preset: a file `NAME.yaml` in the folder `configs`.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from moleflow_pl._internal.files import regular
from moleflow_pl._internal.plain_yaml import load_yaml
from moleflow_pl.errors import ConfigError

PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Return the folder of the presets: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def preset_names() -> list[str]:
    """Return the names of all presets, sorted.

    Example:
        >>> "demo" in preset_names()
        True
    """
    return sorted(path.stem for path in folder().glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        ConfigError: no preset has this name.
    """
    if name not in preset_names():
        raise ConfigError(f"{name!r}: there is {no_preset(name)}")
    return folder() / f"{name}.yaml"


def no_preset(name: str) -> str:
    """Part of an error message for an unknown preset: the closest name, and all names."""
    names = preset_names()
    close = get_close_matches(Path(name).stem, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"no such preset.{hint} The presets are {', '.join(names)}"


def read_preset(name: str) -> dict[str, Any]:
    """The options of a preset, by group.

    Raises:
        ConfigError: no preset has this name.

    Example:
        >>> read_preset("demo")["model"]["image_size"]
        256
    """
    return load_yaml(regular(preset_path(name)).read_text(encoding="utf-8"))
