"""Upgrades of files from earlier schemas; no other code reads them.

Every file with a schema goes through `upgrade` when it is read. A change of the schema adds a step
to `UPGRADES` for each kind of file whose contents change, and a folder of files of the old schema
to `tests/formats`. Kinds without a step stay readable as they are. Nothing in this package reads an
exported file, so exported files need no steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from moleflow_pl._internal import schema


class Kind(Enum):
    """A kind of file with a schema, by what its steps receive."""

    CHECKPOINT = "the project's part of a checkpoint"
    EXPERT = "the metadata of an expert file, parsed"
    SUMMARY = "the content of summary.json"
    PREDICTIONS = "the content of a prediction's run.json"
    FEATURES = "the description of stored features"


Step = Callable[[dict[str, Any]], dict[str, Any]]
# By kind and schema: what upgrades content to the next schema. Where computing again is the answer,
# a step raises `CheckpointError`: readers of features and predictions then compute them again.
UPGRADES: dict[tuple[Kind, int], Step] = {}


def upgrade(kind: Kind, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Upgrade the content of a file to the current schema, step by step.

    Args:
        kind: Kind of the file.
        content: Its content; `schema` and `version` are those of the file.
        name: Name of the file in an error message.

    Raises:
        CheckpointError: the content has no schema, or that of a later version.
    """
    upgraded = dict(content)
    if is_earlier(content):
        for number in range(content["schema"], schema.SCHEMA):
            step = UPGRADES.get((kind, number))
            upgraded = {**(step(upgraded) if step else upgraded), "schema": number + 1}
    schema.require_schema(upgraded, name)
    return upgraded


def require_readable(content: Mapping[str, Any], name: str) -> None:
    """Check that `upgrade` reads the schema of content whose hash is not checked yet.

    Raises:
        CheckpointError: the content has no schema, or that of a later version.
    """
    if not is_earlier(content):
        schema.require_schema(content, name)


def is_earlier(content: Mapping[str, Any]) -> bool:
    """Whether this project wrote content with an earlier schema."""
    number, version = content.get("schema"), content.get("version")
    return type(number) is int and isinstance(version, str) and 1 <= number < schema.SCHEMA
