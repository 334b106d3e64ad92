"""A small backbone and a study of tiny products, for the tests of the benchmarks."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.plans import Backbone, Limits, Recipe
from benchmarks.harness.products import ProductSource
from benchmarks.harness.study import Study
from tests.helpers.models import TINY_MODEL

NO_LIMITS = Limits(raw=-1, strong=-1, pixel=-1, routing=0)
METHOD = Recipe("method", {"score": "bank"}, epochs=2, scores=("norm", "bank"))
TINY = Backbone("tiny", "a tiny ViT", TINY_MODEL, METHOD, NO_LIMITS)


def tiny_study(folder: Path, root: Path, backbone: Backbone = TINY) -> Study:
    """A study of the first two products of `data_root`."""
    return Study(backbone, [ProductSource(name, str(root)) for name in ("01", "b")], folder)


def with_limits(**limits: float) -> Backbone:
    """The tiny backbone, with some limits."""
    return dataclasses.replace(TINY, limits=dataclasses.replace(NO_LIMITS, **limits))


def run_script(main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of a script's main function with these arguments."""
    monkeypatch.setattr("sys.argv", ["script", *map(str, arguments)])
    return main()


def last_rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The figures of the line of JSON that a script printed last, by name."""
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    return {row["what"]: row for row in rows}
