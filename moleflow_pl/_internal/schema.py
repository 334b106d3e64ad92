"""The schema of plain data in files: its stamp, its seal, and whether it has the form it should.

`validate` is the project's own: pydantic, asked to be strict, refuses a dictionary where a
dataclass stands, and msgspec lets unknown keys, NaN and infinity pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from moleflow_pl import __version__
from moleflow_pl.errors import CheckpointError

SCHEMA = 1  # of all files; raised when one of them changes
SEAL = "sha256"  # key of the hash over all else that a file says
NAMES = {int: "a whole number", float: "a finite number", str: "text", dict: "a dictionary"}
SHOWN = 40  # characters of a wrong value
hints_of = cache(get_type_hints)


def stamp() -> dict[str, Any]:
    """What every file says first: its schema, and the version that wrote it."""
    return {"schema": SCHEMA, "version": __version__}


def require_schema(content: Mapping[str, Any], name: str) -> None:
    """Refuse content of another schema.

    Args:
        content: What a file says; its `schema` and `version` are looked at.
        name: What the file is called in the message.

    Raises:
        CheckpointError: it has another schema; the message names the version to use.
    """
    schema, version = content.get("schema"), content.get("version")
    if type(schema) is int and schema == SCHEMA:
        return
    if type(schema) is not int or not isinstance(version, str):
        raise CheckpointError(f"{name} has no schema: MoLE-Flow {__version__} did not write it")
    raise CheckpointError(
        f"{name} has schema {schema}, and MoLE-Flow {__version__} reads schema {SCHEMA}: use "
        f"version {version:.40}, which wrote it"
    )


def require_seal(seal: Any, actual: str, name: str) -> None:
    """Refuse content that is not what was written.

    Args:
        seal: The `content_hash` that a file says of itself.
        actual: That of all else that the file says.
        name: What the file is called in the message.

    Raises:
        CheckpointError: they differ, or the file says none.
    """
    if not isinstance(seal, str):
        raise CheckpointError(f"{name} has no hash of its contents: use a copy as it was written")
    if actual != seal:
        raise CheckpointError(
            f"{name} is damaged: its contents have the SHA-256 {actual[:12]}…, and were written "
            f"with {seal:.12}…: use a copy as it was written"
        )


def validate(value: Any, form: Any, where: str) -> None:
    """Check that plain data has a form.

    Args:
        value: The data.
        form: A type annotation: `int`, `float`, `str`, `list[…]`, `dict[…, …]`, `… | None`, a
            `TypedDict`, a dataclass (whose fields are the keys of a dictionary), or any class.
        where: What the data is called in the message.

    Raises:
        CheckpointError: it has another form.

    Example:
        >>> validate({"scores": [1.0, 2]}, dict[str, list[float]], "state")
        >>> validate({"scores": [1.0, float("nan")]}, dict[str, list[float]], "state")
        Traceback (most recent call last):
        moleflow_pl.errors.CheckpointError: state.scores[1]: expected a finite number, found nan
    """
    if form is Any or (value is None and NoneType in get_args(form)):
        return
    optional = [one for one in get_args(form) if one is not NoneType]
    if NoneType in get_args(form):
        validate(value, optional[0], where)
    elif get_origin(form) is list:
        check_kind(value, list, where)
        if not are_all(value, optional[0]):
            for i, item in enumerate(value):
                validate(item, optional[0], f"{where}[{i}]")
    elif get_origin(form) is dict:
        check_kind(value, dict, where)
        for key, item in value.items():
            validate(key, optional[0], f"a key of {where}")
            validate(item, optional[1], f"{where}.{key}")
    elif is_dataclass(form) or is_typeddict(form):
        check_keys(value, form, where)
    else:
        check_kind(value, form, where)


def are_all(values: list[Any], kind: Any) -> bool:
    """Whether all values are good and of exactly one simple class: scores come by thousands."""
    alike = kind in (float, int, str) and set(map(type, values)) <= {kind}
    return alike and (kind is not float or all(map(math.isfinite, values)))


def check_keys(value: Any, form: Any, where: str) -> None:
    """Refuse a dictionary that lacks a key of a dataclass or a `TypedDict`, or has one more."""
    check_kind(value, dict, where)
    kinds = hints_of(form)
    needed = set(getattr(form, "__required_keys__", ()))
    if is_dataclass(form):
        needed = {
            f.name for f in fields(form) if f.default is MISSING and f.default_factory is MISSING
        }
    for key in sorted(needed - set(value)):
        raise CheckpointError(f"{where} lacks {key!r}")
    for key, item in value.items():
        if key not in kinds:
            raise CheckpointError(f"{where} has {key!r}, which this version does not know")
        validate(item, kinds[key], f"{where}.{key}")


def check_kind(value: Any, kind: type, where: str) -> None:
    """Refuse a value of another class; a number has to be finite, and is no truth value."""
    if kind is float:
        good = isinstance(value, (int, float)) and math.isfinite(value)
    else:
        good = isinstance(value, kind)
    if not good or (isinstance(value, bool) and kind in (int, float)):
        named = NAMES.get(kind, f"a {kind.__name__.lower()}")
        raise CheckpointError(f"{where}: expected {named}, found {repr(value)[:SHOWN]}")
