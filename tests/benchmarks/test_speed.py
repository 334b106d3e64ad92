from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from benchmarks import speed
from benchmarks.harness import beside_backbone
from benchmarks.harness.report import Report
from benchmarks.speed import SMALL_SETTINGS, MixedBatch, bfloat16_row, fit_row
from tests.helpers.benchmarks import last_rows, run_script

SETTING = replace(SMALL_SETTINGS[0], images=10, literal_images=2, epochs=4)


@pytest.mark.parametrize(("seconds", "holds"), [(8.0, True), (8.1, False)])
def test_fit_is_compared_with_the_literal_pieces_times_images_and_epochs(
    seconds: float, holds: bool
) -> None:
    # 2 s + 2 s for two images: 2 s an image and epoch
    row = fit_row(SETTING, project=seconds, backbone=2.0, step=2.0)
    assert row.value == pytest.approx(80 / seconds)
    assert row.holds == holds


def test_fit_is_timed_to_its_end() -> None:
    report = Report("x")
    speed.time_fit(report, [replace(SMALL_SETTINGS[0], epochs=1)])
    (row,) = report.rows
    assert row.value is not None
    assert row.value > 0


def test_scoring_is_timed_and_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {"project": 1.0, "literal": 1.7, "products": 1.0, "bfloat16": 1.0}
    monkeypatch.setattr(speed, "alternate", lambda sides, **_: {k: seconds[k] for k in sides})
    monkeypatch.setattr(speed, "has_matrix_units", lambda: False)
    assert run_script(speed.main, monkeypatch, "inference", "--small") == 1
    rows = last_rows(capsys)
    assert {what: row["holds"] for what, row in rows.items()} == {
        "flow alone, D = 16": True,
        "mixed batch, tiny ViT, float32": False,  # 1.7 x, and 1.8 is the limit
        "mixed batch, tiny ViT, bfloat16": True,
    }


def test_both_sides_score_every_image_of_a_mixed_batch() -> None:
    batch = MixedBatch(SMALL_SETTINGS[0])
    for scores in (batch.score(), batch.score_literally()):
        assert scores.shape == (3,)
        assert torch.isfinite(scores).all()


@pytest.mark.parametrize(
    ("units", "value", "holds"), [(True, 4.0, True), (True, 3.9, False), (False, 3.9, True)]
)
def test_bfloat16_has_a_limit_where_there_are_matrix_units(
    units: bool, value: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "has_matrix_units", lambda: units)
    row = bfloat16_row("x", {"literal": value, "bfloat16": 1.0})
    assert row.holds == holds
    assert f"{value:.2f} x" in row.note or row.value == value
    assert bfloat16_row("x", {"literal": 1.0}).note == "no bfloat16"


@pytest.mark.parametrize(("search", "code"), [(1.6, 0), (1.7, 1)])
def test_a_bank_is_timed_against_its_matrix_product(
    search: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def alternate(sides: dict[str, Callable[[], None]], **_: object) -> dict[str, float]:
        for side in sides.values():
            side()
        return {"search": search, "product": 1.0}

    monkeypatch.setattr(speed, "alternate", alternate)
    assert run_script(speed.main, monkeypatch, "bank", "--small") == code
    assert list(last_rows(capsys)) == ["bank search, D = 16, images at once: 2"]


def test_what_is_beside_the_backbone_is_timed_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script(speed.main, monkeypatch, "inspect", "--small")
    (share,) = last_rows(capsys).values()
    assert share["value"] > 0
    learning = ("learn", "--small", "--images", "4", "--epochs", "1")
    run_script(speed.main, monkeypatch, *learning)
    (ratio,) = last_rows(capsys).values()
    assert ratio["value"] > 1
    monkeypatch.setattr(beside_backbone, "STARTS", 1)
    run_script(speed.main, monkeypatch, "start", "--small")
    (seconds,) = last_rows(capsys).values()
    assert seconds["value"] > 0
