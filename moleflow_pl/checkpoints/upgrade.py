"""The one place that reads what earlier schemas of a checkpoint said.

No version has been released, so there is nothing to upgrade yet. The first change of the schema
after a release adds a function here and a fixture of the old schema to `tests/formats`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moleflow_pl._internal.schema import require_schema

# from a schema to the next one
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def upgrade(state: dict[str, Any]) -> dict[str, Any]:
    """Bring the state of a checkpoint to today's schema, one step after another.

    Raises:
        CheckpointError: no steps lead there.
    """
    while isinstance(state.get("schema"), int) and state["schema"] in UPGRADES:
        state = UPGRADES[state["schema"]](state)
    require_schema(state, "it")
    return state
