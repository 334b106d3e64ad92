"""The names of presets after `--config`."""

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
        ConfigError: a value is neither a file, nor a preset, nor YAML options themselves.
    """
    return replace_values(args, "--config", config_path)


def config_path(value: str) -> str:
    """Return what LightningCLI can read: a path, or the YAML text itself.

    It reads files in the system's encoding, and they are UTF-8: it gets the text where that
    matters.

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
        raise ConfigError(f"--config {value} is not UTF-8: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read --config {value}: {error.strerror}") from error
    check_groups(text, f"--config {value}")
    return path if text.isascii() else text


def check_groups(text: str, where: str) -> None:
    """Check that YAML has options in each of its groups: LightningCLI passes over anything else.

    Raises:
        ConfigError: it has a single value in place of one.
    """
    try:
        options = load_yaml(text)
    except yaml.YAMLError:
        return  # LightningCLI says what is wrong with it
    groups = (*GROUPS, "trainer")
    found = options.items() if isinstance(options, dict) else ()
    for name, value in found:
        if name in groups and not isinstance(value, (dict, str, type(None))):
            raise ConfigError(
                f"{where}: {name} is a group of options, got {printable(str(value))}: write "
                f"{name}: {{OPTION: VALUE}}; moleflow fit --help {name} lists them"
            )


def is_text(value: str) -> bool:
    """Return whether a value holds options itself, as YAML, and names no file.

    Example:
        >>> is_text("{seed_everything: 1}"), is_text("demo")
        (True, False)

    Raises:
        ConfigError: it stands for more than a configuration holds.
    """
    try:
        return isinstance(load_yaml(value), dict)
    except yaml.YAMLError:
        return False
