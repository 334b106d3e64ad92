from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import drift
from benchmarks.drift import (
    CHANGES,
    DRIFTS,
    OURS,
    RIVALS,
    STEPS,
    Judgements,
    drifted,
    false_alarms,
    images_until_seen,
    predictions,
    protocol_images,
    protocol_rows,
    shifted,
)
from benchmarks.harness import plans
from benchmarks.harness.products import ProductSource
from moleflow_pl import MoLEFlow
from tests.helpers.benchmarks import TINY, last_rows, run_script, tiny_study
from tests.helpers.models import fit
from tests.helpers.products import SIZE, draw_product

LIT = {"val_fraction": 0.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MoLEFlow:
    """A model of one product, half of whose images are for calibration."""
    place = tmp_path_factory.mktemp("drift")
    draw_product(place, "a", 0, train=24)
    return fit(place / "run", place, ["a"], epochs=1, callbacks=[], data=LIT).eval()


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    """Good images of that product, as they come at the line."""
    generator = np.random.default_rng(1)
    stripes = 60 + 40 * (np.arange(SIZE) // 3 % 2)
    drawn = stripes + generator.normal(0, 4, (24, 1, SIZE, SIZE))
    return [torch.from_numpy(drawn).byte().expand(-1, 3, -1, -1)]


def test_steady_images_raise_no_alarm_and_darker_ones_do(
    model: MoLEFlow, images: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "STEADY", 500)
    monkeypatch.setattr(drift, "LONGEST", 100)
    steady = predictions(model, images)
    assert false_alarms(model, steady)[0] == 0
    darker = predictions(model, images, CHANGES["brightness -10%"])
    count, channel = images_until_seen(model, steady, darker, seed=0)
    assert count < 30
    assert channel in ("brightness", "router_distance")  # it shows in both
    assert images_until_seen(model, steady, steady, seed=0) == (100, "none within 100 images")


def test_every_false_alarm_is_counted(
    model: MoLEFlow, images: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "STEADY", 200)
    dark = predictions(model, images, CHANGES["brightness -30%"])
    assert false_alarms(model, dark)[0] >= 3


def test_moved_camera_sees_the_same_elsewhere() -> None:
    images = torch.arange(40 * 20).reshape(1, 1, 40, 20).expand(1, 3, -1, -1)
    moved = shifted(images)
    assert moved.shape == images.shape
    assert torch.equal(moved[:, :, 2:, 1:], images[:, :, :-2, :-1])


def test_every_drift_grows_step_by_step() -> None:
    # smooth, so that a larger change is a larger difference
    rows = torch.linspace(0, 10, 64).sin()[:, None] + torch.linspace(0, 8, 64).cos()
    images = (128 + 50 * rows).byte().expand(2, 3, -1, -1)
    steps = dict(drifted(images))
    assert torch.equal(steps.pop("no drift"), images)
    assert len(steps) == STEPS * len(DRIFTS)
    for what in DRIFTS:
        apart = [
            (steps[f"{what} {step} of {STEPS}"].float() - images.float()).abs().mean().item()
            for step in range(1, STEPS + 1)
        ]
        assert 0 < apart[0] < apart[1] < apart[2], what


def test_what_comes_into_sight_of_a_turned_camera_is_not_black() -> None:
    white = torch.full((1, 3, 40, 60), 255, dtype=torch.uint8)
    assert drift.turned(white, 1.0).shape == white.shape
    assert (drift.turned(white, 1.0) == 255).all()


def test_protocol_judges_good_and_defective_images_apart(
    tmp_path: Path, data_root: Path, model: MoLEFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(tmp_path, data_root)
    monkeypatch.setattr(drift, "DRIFTS", {})

    def judge(features: torch.Tensor) -> Judgements:
        alarms = torch.tensor([True, False, False, True, True, False])
        scores = torch.arange(6.0)
        return Judgements(scores, alarms, scores > 0)

    monkeypatch.setattr(drift, "judge_by_model", lambda *_: judge)
    monkeypatch.setattr(drift, "judge_by_bank", lambda *_: judge)
    rows = {row.what: row for row in protocol_rows(study, model, "b")}
    assert len(rows) == 2 * (1 + len(RIVALS)) + 1
    for name in (OURS, *RIVALS):
        assert rows[f"b, no drift, {name}: image_auroc"].value == 1.0  # good ones come first
        alarms = rows[f"b, no drift, {name}: false alarms"]
        assert alarms.value == pytest.approx(100 / 3)
        assert alarms.note == "67% of the defective images found"
    assert rows[f"b, no drift, {OURS}: routing accuracy"].value == pytest.approx(5 / 6)


def test_images_of_the_protocol_are_as_many_of_each_kind(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "TESTED", 2)
    images, defective = protocol_images(ProductSource("b", str(data_root)), (SIZE, SIZE))
    assert images.shape == (4, 3, SIZE, SIZE)
    assert defective.tolist() == [False, False, True, True]
    assert (images.flatten(1).amax(1) == 250).tolist() == defective.tolist()


@pytest.mark.slow
def test_protocol_has_a_line_for_each_step_of_each_product(
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(plans.BACKBONES, "tiny", TINY)
    monkeypatch.setattr(plans, "CALIBRATION", 0.5)
    run_script(
        drift.main, monkeypatch, "protocol", f"--root={data_root}", "--products", "01", "b",
        "--judged", "b", "--small", "--backbones=tiny", f"--folder={tmp_path}",
    )  # fmt: skip
    rows = last_rows(capsys)
    assert f"{TINY.name}: b, geometry {STEPS} of {STEPS}, {OURS}: routing accuracy" in rows
    assert len(rows) == (1 + STEPS * len(DRIFTS)) * (2 * (1 + len(RIVALS)) + 1)


@pytest.mark.slow
def test_command_has_a_line_for_each_change_of_each_product(
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(plans.BACKBONES, "tiny", TINY)
    for name, value in {"STEADY": 50, "BEFORE": 40, "LONGEST": 40, "REPEATS": 1}.items():
        monkeypatch.setattr(drift, name, value)
    run_script(
        drift.main, monkeypatch, "monitor", f"--root={data_root}", "--products", "01", "b",
        "--small", "--backbones=tiny", f"--folder={tmp_path}",
    )  # fmt: skip
    rows = last_rows(capsys)
    for product in ("01", "b"):
        assert f"{TINY.name}: {product}, steady: drift reported" in rows
        for change in CHANGES:
            assert f"{TINY.name}: {product}, {change}: images until drift" in rows
