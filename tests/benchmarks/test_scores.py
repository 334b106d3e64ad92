from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scores
from benchmarks.harness import plans
from benchmarks.harness.image_scores import DEFAULT_WAY, IMAGE_WAYS
from benchmarks.harness.plans import BANKS
from benchmarks.harness.report import Report
from benchmarks.scores import CHANGES, PRESETS, add_differences
from tests.helpers.benchmarks import METHOD, TINY, last_rows, run_script


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs of this file share."""
    return tmp_path_factory.mktemp("scores")


@pytest.fixture
def arguments(folder: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three tiny products on a tiny backbone, two of which are judged."""
    monkeypatch.setattr(plans, "CALIBRATION", 0.5)
    method = replace(METHOD, model=METHOD.model | {"score": BANKS.split("+")})
    monkeypatch.setattr(scores, "VIT", replace(TINY, method=method))
    return [
        f"--root={data_root}", "--products", "01", "b", "c", "--judged", "b", "c", "--small",
        f"--folder={folder}",
    ]  # fmt: skip


def test_parts_stand_beside_the_presets(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(scores.main, monkeypatch, "parts", *arguments) == 0
    rows = last_rows(capsys)
    for change in CHANGES:
        assert f"{TINY.name}, image_auroc, {change}: b" in rows
        assert f"{TINY.name}, pixel_ap, {change}: b" in rows
        assert f"{TINY.name}, pixel_ap, {change}: c" not in rows  # it has no masks
        assert f"{TINY.name}, image_auroc, {change}: 01" not in rows
    first = rows[f"{TINY.name}, pixel_ap, {PRESETS}: b"]["value"]
    other = rows[f"{TINY.name}, pixel_ap, no memory bank: b"]
    assert other["note"] == f"{other['value'] - first:+.4f}"


def test_image_scores_stand_beside_the_default(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(scores.main, monkeypatch, "image-score", *arguments) == 0
    rows = last_rows(capsys)
    assert rows[f"{TINY.name}, image_auroc, {DEFAULT_WAY}: mean"]["note"] == ""
    for way in IMAGE_WAYS:
        assert f"{TINY.name}, image_auroc, {way}: c" in rows


@pytest.mark.parametrize(("found", "code"), [([0.9, 0.903], 0), ([0.9, 0.905], 1)])
def test_draws_may_not_spread(
    found: list[float],
    code: int,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(scores, "DRAWS", 2)
    monkeypatch.setattr(scores, "aurocs_of_draws", lambda *_: found)
    assert run_script(scores.main, monkeypatch, "draws", *arguments) == code
    rows = last_rows(capsys)
    assert len(rows) == 2
    for row in rows.values():
        assert row["value"] == pytest.approx(found[1] - found[0])
        assert row["note"].startswith(f"mean {sum(found) / 2:.4f}, standard deviation")


def test_mean_hides_no_product_that_loses() -> None:
    report = Report("x")
    figures = {"first": {"a": 0.5, "b": 0.5}, "other": {"a": 0.75, "b": 0.375}}
    add_differences(report, "t", figures, "first")
    notes = {row.what: row.note for row in report.rows}
    assert notes["t, other: mean"] == "+0.0625, the worst of 2 products -0.1250"
    assert notes["t, other: a"] == "+0.2500"
    assert notes["t, first: mean"] == ""
