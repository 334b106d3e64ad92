import pytest

from moleflow_pl._internal.schema import SCHEMA, stamp
from moleflow_pl.checkpoints import upgrade as module
from moleflow_pl.checkpoints.upgrade import upgrade
from moleflow_pl.errors import CheckpointError


def test_todays_schema_passes_unchanged() -> None:
    state = {**stamp(), "seed": 1}
    assert upgrade(state) is state


def test_older_schemas_are_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {
        SCHEMA - 2: lambda state: {**state, "schema": SCHEMA - 1, "path": "first"},
        SCHEMA - 1: lambda state: {**state, "schema": SCHEMA, "path": state["path"] + " second"},
    }
    monkeypatch.setattr(module, "UPGRADES", steps)
    assert upgrade({"schema": SCHEMA - 2})["path"] == "first second"


@pytest.mark.parametrize("schema", [None, "1", [1], True, 1.0, SCHEMA + 1, -3])
def test_other_schemas_are_refused(schema: object) -> None:
    with pytest.raises(CheckpointError, match="schema"):
        upgrade({"schema": schema, "version": "9.9.9"})
