from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import ALIKE, BANK, FLOW, missing
from benchmarks.harness import plans
from benchmarks.harness.baselines import BASELINES, CORESET_BANK, STRONG_BANK
from benchmarks.harness.plans import Backbone
from tests.helpers.benchmarks import TINY, last_rows, run_script, tiny_study, with_limits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs of this file share."""
    return tmp_path_factory.mktemp("accuracy")


def run(backbone: Backbone, folder: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of the command on two tiny products."""
    monkeypatch.setitem(plans.BACKBONES, "tiny", backbone)
    return run_script(
        accuracy.main, monkeypatch, f"--root={data_root}", "--products", "01", "b", "--seeds=0",
        "--small", "--backbones=tiny", f"--folder={folder}", f"--output={folder / 'page.md'}",
    )  # fmt: skip


@pytest.mark.slow
def test_page_has_a_line_for_each_method_and_every_figure_with_its_limit(
    folder: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(accuracy, "LEAST_CHANGE", -1)
    monkeypatch.setattr(accuracy, "MOST_SPREAD", 1)
    monkeypatch.setattr(accuracy, "LEAST_ABOVE_RAW", -1)
    monkeypatch.setattr(accuracy, "LEAST_ABOVE_STRONG", -1)
    assert run(TINY, folder, data_root, monkeypatch) == 0
    page = (folder / "page.md").read_text()
    assert page.startswith("# Accuracy")
    assert "python -m benchmarks.accuracy --root DATA \\\n    --backbones tiny \\\n" in page
    for name in (BANK, FLOW, *BASELINES, *(f"{name}{ALIKE}" for name in BASELINES)):
        assert f"| {name}" in page
    assert "| the method as first written down (1 seed), oracle |" in page
    for what, row in last_rows(capsys).items():
        assert f"| {what} | " in page
        assert row["holds"]


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        ("raw", f"mean above {CORESET_BANK}"),
        ("strong", f"mean above {STRONG_BANK}"),
        ("pixel", f"pixel AP of 01, b above {STRONG_BANK}"),
        ("routing", "b, routing accuracy on defective images"),
    ],
)
def test_figure_that_misses_its_limit_fails_the_command(
    limit: str,
    what: str,
    folder: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(accuracy.Judge, "one_more", lambda *_: None)
    assert run(with_limits(**{limit: 1.01}), folder, data_root, monkeypatch) == 1
    assert not last_rows(capsys)[f"{TINY.name}: {what}"]["holds"]
    assert "**no**" in (folder / "page.md").read_text()


def test_flow_of_its_own_is_fitted_for_products_that_no_order_begins_with(
    tmp_path: Path, data_root: Path
) -> None:
    study = tiny_study(tmp_path, data_root)
    assert list(missing(study, [("01", "b")])) == [("b",)]
    assert list(missing(study, [("01", "b"), ("b", "01")])) == []
