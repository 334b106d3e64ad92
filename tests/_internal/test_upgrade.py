import pytest

from moleflow_pl._internal import schema
from moleflow_pl._internal.schema import SCHEMA, stamp
from moleflow_pl._internal.upgrade import UPGRADES, Kind, upgrade
from moleflow_pl.errors import CheckpointError


@pytest.fixture
def _two_schemas_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SCHEMA", SCHEMA + 2)


@pytest.mark.parametrize("kind", Kind)
def test_content_of_the_current_schema_stays_as_it_is(kind: Kind) -> None:
    state = {**stamp(), "seed": 1}
    assert upgrade(kind, state, "it") == state


@pytest.mark.usefixtures("_two_schemas_later")
def test_content_is_upgraded_step_by_step_and_stays_as_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, word in ((SCHEMA, "first"), (SCHEMA + 1, "second")):
        step = lambda state, word=word: {**state, "path": f"{state['path']} {word}"}  # noqa: E731
        monkeypatch.setitem(UPGRADES, (Kind.EXPERT, number), step)
    given = {"schema": SCHEMA, "version": "0", "path": "at"}
    assert upgrade(Kind.EXPERT, given, "it") == {
        "schema": SCHEMA + 2, "version": "0", "path": "at first second",
    }  # fmt: skip
    assert given["path"] == "at"


@pytest.mark.usefixtures("_two_schemas_later")
def test_a_change_of_one_kind_leaves_the_others_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UPGRADES, (Kind.CHECKPOINT, SCHEMA), lambda state: {**state, "new": 1})
    given = {"schema": SCHEMA, "version": "0"}
    assert upgrade(Kind.CHECKPOINT, given, "it")["new"] == 1
    assert upgrade(Kind.SUMMARY, given, "it") == {**given, "schema": SCHEMA + 2}


@pytest.mark.parametrize("number", [None, "1", [1], True, 1.0, SCHEMA + 1, 0, -3])
def test_other_schemas_are_refused(number: object) -> None:
    with pytest.raises(CheckpointError, match="^the file has .*schema"):
        upgrade(Kind.CHECKPOINT, {"schema": number, "version": "9.9.9"}, "the file")


@pytest.mark.usefixtures("_two_schemas_later")
def test_an_earlier_schema_without_a_version_is_not_this_projects() -> None:
    with pytest.raises(CheckpointError, match="MoLE-Flow did not write it"):
        upgrade(Kind.CHECKPOINT, {"schema": SCHEMA}, "the file")
