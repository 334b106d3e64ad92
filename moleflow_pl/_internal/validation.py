"""Checks of numbers in arguments.

jsonargparse's restricted types hold on the command line alone, and these checks in Python too.
pydantic would be one more dependency; unless it is strict, it takes `True` and "3" for numbers.
"""

from __future__ import annotations

from moleflow_pl.errors import ConfigError

WIDEST = 65536  # channels of a patch


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Raise ConfigError unless a value is an integer in [low, high].

    Example:
        >>> require_int("lora_rank", 0, 1, 4096)
        Traceback (most recent call last):
        moleflow_pl.errors.ConfigError: lora_rank must be an integer from 1 to 4096, got 0
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} must be an integer from {low} to {high}, got {value!r}")


def require_number(name: str, value: object, low: float, high: float, above: bool = False) -> None:
    """Raise ConfigError unless a value is a number in [low, high].

    Args:
        name: Name of the argument.
        value: Its value.
        low: Lower limit.
        high: Upper limit.
        above: Exclude `low` itself.

    Example:
        >>> require_number("patch_fraction", 0, 0, 1, above=True)
        Traceback (most recent call last):
        moleflow_pl.errors.ConfigError: patch_fraction must be a number above 0, up to 1, got 0
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        fits = low < value if above else low <= value
        if fits and value <= high:
            return
    start = f"above {low:g}" if above else f"of at least {low:g}"
    raise ConfigError(f"{name} must be a number {start}, up to {high:g}, got {value!r}")


def require_sides(name: str, value: object, low: int, high: int) -> None:
    """Raise ConfigError unless a value is an integer in [low, high], or a list of two such sides.

    Example:
        >>> require_sides("grid", [16, 0], 1, 4096)
        Traceback (most recent call last):
        moleflow_pl.errors.ConfigError: a side of grid must be an integer from 1 to 4096, got 0
    """
    sides = value if isinstance(value, (list, tuple)) else [value]
    if len(sides) not in (1, 2) or (len(sides) == 1) == isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} must be one integer, or [height, width], got {value!r}")
    for side in sides:
        require_int(f"a side of {name}", side, low, high)
