"""Checks of configuration values before jsonargparse opens or imports what they name.

It opens any value that is a file's path, and imports any value that may be a class. So every word
of the command line and every string of a YAML file is checked first.
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
ONLY = "only classes of torch, torchvision, lightning and moleflow_pl are allowed"
CLASS_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
TYPE = re.compile(r"[\w.\[\],| ]+")  # one class path, or several in the expression of a type


class RefusedError(BaseException):
    """A refused value. Not an `Exception`, after which jsonargparse would try other readings.

    Args:
        reason: The error to raise in the end.
    """

    def __init__(self, reason: ConfigError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class ConfigValues:
    """Reads and checks the values of one command.

    Args:
        safe: Refuse classes and functions of packages that are not in `TRUSTED`.
    """

    def __init__(self, safe: bool = False) -> None:
        self.safe = safe

    @contextmanager
    def checked(self, words: Sequence[str]) -> Iterator[None]:
        """Check the words of a command line, and turn a refusal within the block into an error.

        Raises:
            ConfigError: a value is refused.
        """
        try:
            self.check(word.partition("=")[2] or word for word in words)
            yield
        except RefusedError as error:
            raise error.reason from None

    def load(self, text: str) -> Any:
        """Read YAML for jsonargparse.

        Raises:
            RefusedError: the text expands too far, or names what must not be opened or imported.
            yaml.YAMLError: the text is not YAML.
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
            RefusedError: a value names what must not be opened or imported.
        """
        for value in values:
            if is_pipe(os.path.expanduser(value)):
                error = ConfigError(f"{printable(value)} is not a file but a pipe or a device")
                raise RefusedError(error)
            if self.safe and TYPE.fullmatch(value):
                self.check_classes(CLASS_PATH.findall(value))

    def check_classes(self, paths: Iterable[str]) -> None:
        """Check possible paths of classes and functions.

        Raises:
            RefusedError: a class belongs to a package that is not trusted.
        """
        for path in paths:
            home = home_of(path)
            if home is not None and home not in TRUSTED:
                where = f"of the package {home}" if path.startswith(f"{home}.") else f"from {home}"
                raise RefusedError(ConfigError(f"{SAFE_OPTION}: {path} is {where}, and {ONLY}"))

    def check_parsed(self, config: Mapping[str, Any]) -> None:
        """Check the classes of a parsed configuration, where names without a package are resolved.

        Raises:
            RefusedError: a class belongs to a package that is not trusted.
        """
        if self.safe:
            self.check_classes(class_paths_in(config))


def texts_in(value: Any) -> Iterator[str]:
    """All strings in plain data, except keys.

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
    """Whether a path is a pipe or a device, on which reading would block.

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
    """The package that defines a class or function; None if the path names nothing.

    Only trusted packages are imported. They may expose names of others: `torch.os.system` is
    defined in `posix`.

    Example:
        >>> home_of("torch.optim.SGD"), home_of("torch.os.system"), home_of("cell.png")
        ('torch', 'os', None)
    """
    root, *names = path.split(".")
    if root not in TRUSTED:
        exists = root in sys.modules or importlib.util.find_spec(root) is not None
        return root if exists else None
    try:
        part: Any = import_module(root)
        for name in names:
            part = getattr(part, name, None) or import_module(f"{part.__name__}.{name}")
            if inspect.ismodule(part) and package_of(part.__name__) not in TRUSTED:
                break
    except (ImportError, AttributeError):
        return None
    return package_of(part.__name__ if inspect.ismodule(part) else module_of(part))


def module_of(value: Any) -> str:
    """The module of a class or function, or of any other object's class."""
    own = inspect.isclass(value) or inspect.isroutine(value)
    return str(getattr(value if own else type(value), "__module__", None))


def package_of(module: str) -> str:
    """The package of a module."""
    return module.partition(".")[0]
