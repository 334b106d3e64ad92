import pytest

from benchmarks import overhead
from benchmarks.harness.many_products import bank_widths
from benchmarks.overhead import share_row
from moleflow_pl import MoLEFlow
from tests.helpers.benchmarks import last_rows, run_script


@pytest.mark.parametrize(("whole", "holds"), [(1.149, True), (1.151, False)])
def test_the_share_is_of_the_backbone_alone(whole: float, holds: bool) -> None:
    row = share_row("batch", 1, whole=whole, backbone=1.0)
    assert row.value == pytest.approx(100 * (whole - 1))
    assert row.holds == holds


def test_every_bank_of_the_presets_is_as_wide_as_its_features() -> None:
    arguments = {"backbone": "test_vit", "backbone_weights": "random", "image_size": 64}
    model = MoLEFlow(**arguments, layers=[[0], [1]], flow_groups=1, score=["depths", "groups"])
    dim = model.inspector.extractor.dim
    assert bank_widths(model.inspector) == {"depths": [dim], "groups": [dim, dim]}


def test_subjects_are_timed_to_their_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script(overhead.main, monkeypatch, "inspect", "--small")
    (share,) = last_rows(capsys).values()
    assert share["value"] > 0
    learning = ("learn", "--small", "--images", "4", "--epochs", "1")
    run_script(overhead.main, monkeypatch, *learning)
    (ratio,) = last_rows(capsys).values()
    assert ratio["value"] > 1
    monkeypatch.setattr(overhead, "STARTS", 1)
    run_script(overhead.main, monkeypatch, "start", "--small")
    (seconds,) = last_rows(capsys).values()
    assert seconds["value"] > 0
