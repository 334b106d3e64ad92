"""The values of a configuration, before jsonargparse opens or imports what they name.

It opens a value as a file wherever there is one, and imports a value as a class wherever a class
can stand. So every word of the command line and every text of a YAML file is looked at first.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from stat import S_ISDIR, S_ISREG
from typing import Any

from moleflow_pl._internal.printable import printable
from moleflow_pl.cli.yaml_names import load_yaml
from moleflow_pl.errors import ConfigError

SAFE_OPTION = "--safe-config"
TRUSTED = ("torch", "torchvision", "lightning", "pytorch_lightning", "moleflow_pl")
ONLY = "only those of torch, torchvision, lightning and moleflow_pl may be named"
CLASS_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
TYPE = re.compile(r"[\w.\[\],| ]+")  # one class path, or several in the expression of a type


class RefusedError(BaseException):
    """A value that is refused: after an `Exception`, jsonargparse would try to read it otherwise.

    Args:
        reason: The error to end with.
    """

    def __init__(self, reason: ConfigError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class ConfigValues:
    """Reads the values of one command.

    Args:
        safe: Refuse classes and functions of packages that are not in `TRUSTED`.
    """

    def __init__(self, safe: bool = False) -> None:
        self.safe = safe

    @contextmanager
    def checked(self, words: Sequence[str]) -> Iterator[None]:
        """Check the words of a command line, and end with one error for a value refused within.

        Raises:
            ConfigError: there is one.
        """
        try:
            self.check(word.partition("=")[2] or word for word in words)
            yield
        except RefusedError as error:
            raise error.reason from None

    def load(self, text: str) -> Any:
        """Read YAML for jsonargparse.

        Raises:
            RefusedError: it stands for too much, or names what must not be opened or imported.
            yaml.YAMLError: it is no YAML.
        """
        try:
            value = load_yaml(text)
        except ConfigError as error:
            raise RefusedError(error) from error
        self.check(texts_in(value))
        return value

    def check(self, values: Iterable[str]) -> None:
        """Check some values.

        Raises:
            RefusedError: one names what must not be opened or imported.
        """
        for value in values:
            if is_pipe(os.path.expanduser(value)):
                error = ConfigError(f"{printable(value)} is not a file but a pipe or a device")
                raise RefusedError(error)
            if self.safe and TYPE.fullmatch(value):
                self.check_classes(CLASS_PATH.findall(value))

    def check_classes(self, paths: Iterable[str]) -> None:
        """Check what may be paths of classes and functions.

        Raises:
            RefusedError: one is of another package.
        """
        for path in paths:
            home = home_of(path)
            if home is not None and home not in TRUSTED:
                where = f"of the package {home}" if path.startswith(f"{home}.") else f"from {home}"
                raise RefusedError(ConfigError(f"{SAFE_OPTION}: {path} is {where}, and {ONLY}"))

    def check_parsed(self, config: Mapping[str, Any]) -> None:
        """Check the classes of a parsed configuration: one may be named without its package.

        Raises:
            RefusedError: one is of another package.
        """
        if self.safe:
            self.check_classes(class_paths_in(config))


def texts_in(value: Any) -> Iterator[str]:
    """All texts in plain data, but for the keys.

    Example:
        >>> list(texts_in({"a": ["b", 1, {"c": "d"}]}))
        ['b', 'd']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


def class_paths_in(value: Any) -> Iterator[str]:
    """All class paths in a parsed configuration.

    Example:
        >>> list(class_paths_in({"a": [{"class_path": "b.C", "init_args": {}}]}))
        ['b.C']
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from class_paths_in(item)


def is_pipe(path: str) -> bool:
    """Whether a path is that of a pipe or a device, which would be waited for.

    Example:
        >>> is_pipe("/dev/null"), is_pipe("/"), is_pipe("tail")
        (True, False, False)
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # it names no file
        return False
    return not (S_ISREG(mode) or S_ISDIR(mode))


def home_of(path: str) -> str | None:
    """The package that a class or function is defined in; None for a path of nothing.

    What is not of a trusted package is not imported. A trusted one may show what is not its own:
    `torch.os.system` is from `posix`.

    Example:
        >>> home_of("torch.optim.SGD"), home_of("torch.os.system"), home_of("cell.png")
        ('torch', 'os', None)
    """
    root, *names = path.split(".")
    if root not in TRUSTED:
        there = root in sys.modules or importlib.util.find_spec(root) is not None
        return root if there else None
    try:
        found: Any = import_module(root)
        for name in names:
            found = getattr(found, name, None) or import_module(f"{found.__name__}.{name}")
            if inspect.ismodule(found) and package_of(found.__name__) not in TRUSTED:
                break
    except (ImportError, AttributeError):
        return None
    return package_of(found.__name__ if inspect.ismodule(found) else defined_in(found))


def defined_in(thing: Any) -> str:
    """The module of a class or function, or of the class of anything else."""
    own = inspect.isclass(thing) or inspect.isroutine(thing)
    return str(getattr(thing if own else type(thing), "__module__", None))


def package_of(module: str) -> str:
    """The package of a module."""
    return module.partition(".")[0]
