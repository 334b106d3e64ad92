"""Registries: parts that an argument chooses by name, one pattern for every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, NoReturn, TypeVar

from moleflow_pl.errors import ConfigError

Part = TypeVar("Part")
Decorated = TypeVar("Decorated")


class Registry(dict[str, Part], Generic[Part]):
    """Parts of one kind, by the name that an argument takes.

    Looking up an unknown name raises `ConfigError`; `in` and `get` work as in a dict. A class that
    is added gets its name as the attribute `name`.

    Args:
        argument: Name of the argument, for the error message.

    Example:
        >>> losses: Registry[float] = Registry("loss")
        >>> losses.add("mean")(0.5)
        0.5
        >>> losses["tail"]
        Traceback (most recent call last):
        moleflow_pl.errors.ConfigError: loss has to be one of 'mean', got 'tail'
    """

    def __init__(self, argument: str) -> None:
        super().__init__()
        self.argument = argument

    def add(self, name: str) -> Callable[[Decorated], Decorated]:
        """Return a decorator that adds a part under `name`.

        Raises:
            ValueError: the name is taken.
        """
        if name in self:
            raise ValueError(
                f"{self.argument} {name!r} is already registered as {self[name]!r}: choose another "
                "name"
            )

        def register(part: Any) -> Any:
            if isinstance(part, type):
                part.name = name  # type: ignore[attr-defined]
            self[name] = part
            return part

        return register

    def __missing__(self, name: str) -> NoReturn:
        allowed = ", ".join(map(repr, sorted(self)))
        close = get_close_matches(str(name), self, n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{self.argument} has to be one of {allowed}, got {name!r}{hint}")


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that all parts in it are registered.

    Args:
        package: The package's `__name__`.
        path: Its `__path__`.
    """
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
