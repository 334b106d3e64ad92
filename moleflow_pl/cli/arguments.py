"""Read, replace or remove options in a list of command-line words before it is parsed.

An option is written `--name value` or `--name=value`, and may occur more than once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def option(args: Sequence[str], name: str) -> str | None:
    """Return the last value of an option.

    Example:
        >>> option(["fit", "--ckpt_path=a", "--ckpt_path", "b"], "--ckpt_path")
        'b'
    """
    last = None
    for i, arg in enumerate(args):
        if i and args[i - 1] == name:
            last = arg
        elif arg.startswith(f"{name}="):
            last = arg.removeprefix(f"{name}=")
    return last


def replace_values(args: Sequence[str], name: str, change: Callable[[str], str]) -> list[str]:
    """Replace every value of an option by `change(value)`.

    Example:
        >>> replace_values(["fit", "--config", "a", "--config=b"], "--config", str.upper)
        ['fit', '--config', 'A', '--config=B']
    """
    replaced = list(args)
    for i, arg in enumerate(args):
        if i and args[i - 1] == name:
            replaced[i] = change(arg)
        elif arg.startswith(f"{name}="):
            replaced[i] = f"{name}={change(arg.removeprefix(f'{name}='))}"
    return replaced


def without(args: Sequence[str], name: str) -> list[str]:
    """Remove an option and its values.

    Example:
        >>> without(["fit", "--ckpt_path=a", "--ckpt_path", "b", "--x"], "--ckpt_path")
        ['fit', '--x']
    """
    others = [arg for i, arg in enumerate(args) if not (i and args[i - 1] == name)]
    return [arg for arg in others if arg != name and not arg.startswith(f"{name}=")]


def expand_product(args: Sequence[str]) -> list[str]:
    """Write `--product`, the short option of `predict`, in full.

    Example:
        >>> expand_product(["predict", "--product=a", "--productive"])
        ['predict', '--predictions.product=a', '--productive']
    """
    return [re.sub(r"^--product(?==|$)", "--predictions.product", arg) for arg in args]
