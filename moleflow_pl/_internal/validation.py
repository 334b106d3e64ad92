"""Numbers that a user gives: one sentence about each that cannot be."""

from __future__ import annotations

from moleflow_pl.errors import ConfigError

WIDEST = 65536  # channels of a patch


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no whole number within limits, both included.

    Raises:
        ConfigError: it is none.

    Example:
        >>> require_int("lora_rank", 0, 1, 4096)
        Traceback (most recent call last):
        moleflow_pl.errors.ConfigError: lora_rank has to be a whole number from 1 to 4096, got 0
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} has to be a whole number from {low} to {high}, got {value!r}")


def require_number(name: str, value: object, low: float, high: float, above: bool = False) -> None:
    """Refuse what is no number within limits.

    Args:
        name: The argument.
        value: Its value.
        low: The least it may be.
        high: The most it may be.
        above: Whether `low` itself is too little.

    Raises:
        ConfigError: it is none.

    Example:
        >>> require_number("patch_fraction", 0, 0, 1, above=True)
        Traceback (most recent call last):
        moleflow_pl.errors.ConfigError: patch_fraction has to be a number above 0, up to 1, got 0
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        fits = low < value if above else low <= value
        if fits and value <= high:
            return
    start = f"above {low:g}" if above else f"of at least {low:g}"
    raise ConfigError(f"{name} has to be a number {start}, up to {high:g}, got {value!r}")


def require_sides(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is neither one whole number within limits nor two.

    Raises:
        ConfigError: it is not.

    Example:
        >>> require_sides("grid", [16, 0], 1, 4096)
        Traceback (most recent call last):
        moleflow_pl.errors.ConfigError: grid, a side, has to be a whole number from 1 to 4096, got 0
    """
    sides = value if isinstance(value, (list, tuple)) else [value]
    if len(sides) not in (1, 2) or (len(sides) == 1) == isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} has to be one side, or height and width, got {value!r}")
    for side in sides:
        require_int(f"{name}, a side,", side, low, high)
