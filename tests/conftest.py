"""Small data sets and models that tests share."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moleflow_pl import MoLEFlow
from tests.helpers.models import TINY_MODEL, fit
from tests.helpers.products import draw_product
from tests.helpers.shared import built_once
from tests.helpers.story import Story

REPORT_TESTS = Path(__file__).parent / "report"
BLANK = "data:image/svg+xml;base64,"


@pytest.fixture(autouse=True)
def _blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the page's figures blank: drawing them takes four fifths of a tiny fit.

    The tests of the report draw them, and so does every run in a fresh process.
    """
    if not request.path.is_relative_to(REPORT_TESTS):
        for name in ("roc_figure", "histogram_figure", "rates_figure"):
            monkeypatch.setattr(f"moleflow_pl.report.page.{name}", lambda *_, **__: BLANK)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Fail after ten seconds: who opens a pipe for reading waits for ever."""

    def stop(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """One run by the command; copy what you change."""
    return built_once(tmp_path_factory, "story", Story)
