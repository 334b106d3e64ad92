"""Resolves the names of presets after `--config`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from moleflow_pl._internal.files import regular
from moleflow_pl._internal.plain_yaml import load_yaml
from moleflow_pl._internal.presets import no_preset, preset_names, preset_path
from moleflow_pl._internal.printable import printable
from moleflow_pl.cli.arguments import replace_values
from moleflow_pl.cli.help import GROUPS
from moleflow_pl.errors import ConfigError


def resolve(args: Sequence[str]) -> list[str]:
    """Replace the name of a preset after `--config` by its path; a file of that name comes first.

    Raises:
        ConfigError: a value is neither a file, nor a preset, nor YAML with options.
    """
    return replace_values(args, "--config", config_path)


def config_path(value: str) -> str:
    """Return a value that LightningCLI can read: a path, or YAML text.

    It reads files in the system's encoding, but they are UTF-8: if they are not ASCII, it gets the
    text.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    if is_text(value):
        check_groups(value, "the text after --config")
        return value
    given = Path(value)
    is_file = given.exists() and not given.is_dir()
    if not is_file and value not in preset_names():
        raise ConfigError(f"--config {value}: there is no such file and {no_preset(value)}")
    path = value if is_file else str(preset_path(value))
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {value} is not UTF-8: {error}; save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"cannot read --config {value}: {error.strerror}; give a YAML file or a preset"
        ) from error
    check_groups(text, f"--config {value}")
    return path if text.isascii() else text


def check_groups(text: str, where: str) -> None:
    """Check that each group in YAML holds options: LightningCLI ignores any other value.

    Raises:
        ConfigError: a group is a single value.
    """
    try:
        options = load_yaml(text)
    except yaml.YAMLError:
        return  # LightningCLI reports the error
    groups = (*GROUPS, "trainer")
    entries = options.items() if isinstance(options, dict) else ()
    for name, value in entries:
        if name in groups and not isinstance(value, (dict, str, type(None))):
            raise ConfigError(
                f"{where}: {name} must be a group of options, got {printable(str(value))}: write "
                f"{name}: {{OPTION: VALUE}}; moleflow fit --help {name} lists them"
            )


def is_text(value: str) -> bool:
    """Return whether a value is YAML with options, not the name of a file.

    Example:
        >>> is_text("{seed_everything: 1}"), is_text("demo")
        (True, False)

    Raises:
        ConfigError: the text exceeds the limits of `plain_yaml`.
    """
    try:
        return isinstance(load_yaml(value), dict)
    except yaml.YAMLError:
        return False
