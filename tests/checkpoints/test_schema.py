"""Whatever a checkpoint says of itself, it is refused in one sentence or it works."""

import copy
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.schema import CONFIG_KEY, STATE_KEY, validate_contents
from moleflow_pl.errors import CheckpointError, MoLEFlowError
from tests.helpers.checkpoints import save_sealed

KEPT = Path(__file__).parents[1] / "formats" / "schema1" / "last.ckpt"
WHOLE = torch.load(KEPT, weights_only=True)
WRONG: list[Any] = [
    None, "x", "", 3, -1, 10**9, 2.5, math.nan, -math.inf, True, [], {}, [[]], ["x"], [7], {"0": 1},
    {"x": {}}, torch.zeros(2),
]  # fmt: skip

UNFIT = (None, "x", math.nan, [])


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where something can be replaced or taken away, in dictionaries and lists."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


PLACES = [place for place in places(WHOLE) if place[0] != "state_dict" or len(place) == 1]
OWN = [place for place in PLACES if place[0] in (STATE_KEY, CONFIG_KEY)]
TENSORS = [("state_dict", key) for key in WHOLE["state_dict"]]


def changed(place: tuple, value: Any, take_away: bool) -> dict[str, Any]:
    made = copy.deepcopy(WHOLE)
    parent = made
    for key in place[:-1]:
        parent = parent[key]
    if take_away:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return made


def use(checkpoint: dict[str, Any]) -> None:
    """What `Predictor` and `export` do with a file."""
    buffer = io.BytesIO()
    try:
        save_sealed(checkpoint, buffer)
    except (AttributeError, KeyError):  # there is no place for a seal
        torch.save(checkpoint, buffer)
    buffer.seek(0)
    model = MoLEFlow.load_from_checkpoint(buffer, map_location="cpu").eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 48, 48, dtype=torch.uint8))
    for task in model.schedule.learned:
        found = model.schedule.tasks[task].calibration
        if found is not None:
            found.limits()


def refused_or_used(checkpoint: dict[str, Any]) -> None:
    try:
        use(checkpoint)
        said = "nothing"
    except MoLEFlowError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 800


@given(st.sampled_from(OWN), st.sampled_from(WRONG), st.booleans())
@settings(max_examples=40)
def test_any_change_of_the_projects_part_is_refused_or_harmless(
    place: tuple, value: Any, take_away: bool
) -> None:
    refused_or_used(changed(place, value, take_away))


@given(st.sampled_from(PLACES + TENSORS), st.sampled_from(WRONG), st.booleans())
@settings(max_examples=25)
def test_any_change_of_a_checkpoint_is_refused_or_harmless(
    place: tuple, value: Any, take_away: bool
) -> None:
    refused_or_used(changed(place, value, take_away))


@pytest.mark.slow
@given(st.sampled_from(OWN + PLACES + TENSORS), st.sampled_from(WRONG), st.booleans())
@settings(max_examples=400)
def test_many_changes_of_a_checkpoint_are_refused_or_harmless(
    place: tuple, value: Any, take_away: bool
) -> None:
    refused_or_used(changed(place, value, take_away))


def test_any_wrong_value_in_the_projects_part_ends_in_one_error() -> None:
    refused = 0
    for place in OWN:
        for value in UNFIT:
            parts = {key: WHOLE[key] for key in ("state_dict", CONFIG_KEY)}
            made = {**parts, STATE_KEY: copy.deepcopy(WHOLE[STATE_KEY])}
            parent = made
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = value
            try:
                validate_contents(made)
            except CheckpointError as error:
                refused += bool(str(error))
    # the arguments of backbone and model may be anything here, and some things may be missing
    assert refused > 0.7 * len(OWN) * len(UNFIT)
