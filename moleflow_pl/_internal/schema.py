"""The schema of plain data in files: its version stamp, its checksum, and its validation.

`validate` is the project's own: pydantic in strict mode refuses a dictionary in place of a
dataclass, and msgspec accepts unknown keys, NaN and infinity.
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

SCHEMA = 1  # of all files; increased when the contents of any of them change
SEAL = "sha256"  # key of the hash over the rest of a file's contents
NAMES = {int: "a whole number", float: "a finite number", str: "text", dict: "a dictionary"}
SHOWN = 40  # characters of a wrong value
hints_of = cache(get_type_hints)


def stamp() -> dict[str, Any]:
    """The first entries of every file: its schema, and the version that wrote it."""
    return {"schema": SCHEMA, "version": __version__}


def require_schema(content: Mapping[str, Any], name: str) -> None:
    """Raise an error unless content has the schema that this version reads.

    Args:
        content: Contents of a file; only `schema` and `version` are read.
        name: Name of the file in the message.

    Raises:
        CheckpointError: the content has another schema; the message names the version to use.
    """
    schema, version = content.get("schema"), content.get("version")
    if type(schema) is int and schema == SCHEMA:
        return
    if type(schema) is not int or not isinstance(version, str):
        raise CheckpointError(
            f"{name} has no schema: MoLE-Flow did not write it, so give a file that it wrote"
        )
    raise CheckpointError(
        f"{name} has schema {schema}, and MoLE-Flow {__version__} reads schema {SCHEMA}: use "
        f"version {version:.40}, which wrote it"
    )


def require_seal(seal: Any, actual: str, name: str) -> None:
    """Raise an error unless content has the hash that was stored with it.

    Args:
        seal: The `content_hash` that the file stores.
        actual: That of the rest of the file's contents.
        name: Name of the file in the message.

    Raises:
        CheckpointError: the hash is missing, or differs from that of the content.
    """
    if not isinstance(seal, str):
        raise CheckpointError(f"{name} has no hash of its contents: use an undamaged copy")
    if actual != seal:
        raise CheckpointError(
            f"{name} is damaged: its contents have the SHA-256 {actual[:12]}…, not {seal:.12}… as "
            "written: use an undamaged copy"
        )


def validate(value: Any, form: Any, where: str) -> None:
    """Raise an error unless plain data matches a type annotation.

    Args:
        value: The data.
        form: A type annotation: `int`, `float`, `str`, `list[…]`, `dict[…, …]`, `… | None`, a
            `TypedDict`, a dataclass (whose fields are the keys of a dictionary), or any class.
        where: Name of the data in the message.

    Raises:
        CheckpointError: the data does not match.

    Example:
        >>> validate({"scores": [1.0, 2]}, dict[str, list[float]], "state")
        >>> validate({"scores": [1.0, float("nan")]}, dict[str, list[float]], "state")
        Traceback (most recent call last):
        moleflow_pl.errors.CheckpointError: state.scores[1]: expected a finite number, found nan
    """
    if form is Any or (value is None and NoneType in get_args(form)):
        return
    optional = [part for part in get_args(form) if part is not NoneType]
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
    """Whether all values are valid and of exactly one simple class; a fast check for long lists."""
    alike = kind in (float, int, str) and set(map(type, values)) <= {kind}
    return alike and (kind is not float or all(map(math.isfinite, values)))


def check_keys(value: Any, form: Any, where: str) -> None:
    """Raise an error unless a dictionary has the keys of a dataclass or a `TypedDict`."""
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
            raise CheckpointError(f"{where} has the unknown key {key!r}")
        validate(item, kinds[key], f"{where}.{key}")


def check_kind(value: Any, kind: type, where: str) -> None:
    """Raise an error unless a value has a class; a number must be finite and not a bool."""
    if kind is float:
        good = isinstance(value, (int, float)) and math.isfinite(value)
    else:
        good = isinstance(value, kind)
    if not good or (isinstance(value, bool) and kind in (int, float)):
        named = NAMES.get(kind, f"a {kind.__name__.lower()}")
        raise CheckpointError(f"{where}: expected {named}, found {repr(value)[:SHOWN]}")
