"""Small data sets and models that tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moleflow_pl import MoLEFlow
from tests.helpers.models import TINY_MODEL, fit
from tests.helpers.products import draw_product

if TYPE_CHECKING:
    from tests.helpers.story import Story


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products, `01`, `b` and `c`; the last has no masks."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("01", "b", "c")):
        draw_product(root, name, seed, masks=name != "c")
    return root


@pytest.fixture
def tiny_model() -> Callable[..., MoLEFlow]:
    """Builds a small model; arguments as those of `MoLEFlow`."""

    def build(**options: object) -> MoLEFlow:
        return MoLEFlow(**{**TINY_MODEL, **options})

    return build


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, MoLEFlow]:
    """Run folder and model of a fit of `01` and `b`; look, but do not touch."""
    run = tmp_path_factory.mktemp("run")
    return run, fit(run, data_root, ["01", "b"])


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> "Story":
    """One run by the command, in a folder of its own; copy what you change."""
    from tests.helpers.story import Story

    return Story(tmp_path_factory.mktemp("story"))
