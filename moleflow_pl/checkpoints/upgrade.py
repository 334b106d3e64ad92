"""Upgrades of checkpoints from earlier schemas; no other code reads them.

Schema 1 is the first. A change of a released schema adds a function here and a fixture of the old
schema to `tests/formats`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moleflow_pl._internal.schema import require_schema

# by schema: the function that upgrades to the next schema
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def upgrade(state: dict[str, Any]) -> dict[str, Any]:
    """Upgrade the state of a checkpoint to the current schema, step by step.

    Raises:
        CheckpointError: there is no upgrade from the schema of the state.
    """
    while isinstance(state.get("schema"), int) and state["schema"] in UPGRADES:
        state = UPGRADES[state["schema"]](state)
    require_schema(state, "it")
    return state
