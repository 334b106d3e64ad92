from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import pytest
import torch

from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.schema import require_seal, validate
from moleflow_pl.errors import CheckpointError


class Row(TypedDict):
    values: dict[str, list[float | None]]
    note: NotRequired[str]


@dataclass
class Thing:
    name: str
    row: Row | None = None
    tags: list[str] = field(default_factory=list)


GOOD: list[tuple[Any, Any]] = [
    (3, int), (3, float), (2.5, float), ("x", str), (None, int | None), (3, int | None),
    ({"a": [1.0, None]}, dict[str, list[float | None]]), ({}, dict[str, int]), ([], list[int]),
    ({"values": {}}, Row), ({"values": {}, "note": "x"}, Row), (object(), Any),
    ({"name": "a"}, Thing), ({"name": "a", "row": {"values": {"x": [1]}}, "tags": ["b"]}, Thing),
    (torch.zeros(1), torch.Tensor),
]  # fmt: skip
BAD: list[tuple[Any, Any, str]] = [
    (2.5, int, "x: expected a whole number, found 2.5"),
    (True, int, "x: expected a whole number, found True"),
    (True, float, "x: expected a finite number, found True"),
    ("1", float, "x: expected a finite number, found '1'"),
    (float("inf"), float, "x: expected a finite number, found inf"),
    (None, int, "x: expected a whole number, found None"),
    ("a", int | None, "x: expected a whole number"),
    ("ab", list[str], "x: expected a list, found 'ab'"),
    ([1, "b"], list[int], r"x\[1\]: expected a whole number, found 'b'"),
    ([], dict[str, int], "x: expected a dictionary"),
    ({3: 1}, dict[str, int], "a key of x: expected text, found 3"),
    ({}, Row, "x lacks 'values'"),
    ({"values": {"a": ["b"]}}, Row, r"x.values.a\[0\]: expected a finite number"),
    ({"values": {}, "more": 1}, Row, "x has the unknown key 'more'"),
    ({"row": None}, Thing, "x lacks 'name'"),
    ({"name": "a", "row": {}}, Thing, "x.row lacks 'values'"),
    (3, Thing, "x: expected a dictionary, found 3"),
    ([1], torch.Tensor, "x: expected a tensor"),
    ("a" * 90, int, "found 'a{39}$"),
]


@pytest.mark.parametrize(("value", "form"), GOOD)
def test_data_of_the_form_is_taken(value: object, form: object) -> None:
    validate(value, form, "x")


@pytest.mark.parametrize(("value", "form", "said"), BAD)
def test_other_data_is_refused_by_its_place(value: object, form: object, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        validate(value, form, "x")


def test_content_with_another_hash_is_refused_by_name() -> None:
    content = {"a": [1, 2.5]}
    require_seal(content_hash(content), content_hash(content), "x.json")
    with pytest.raises(CheckpointError, match="x.json is damaged: its contents have the SHA-256"):
        require_seal(content_hash(content), content_hash({"a": [1, 2.0]}), "x.json")
    with pytest.raises(CheckpointError, match="x.json has no hash"):
        require_seal(None, content_hash(content), "x.json")
