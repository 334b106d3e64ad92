from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import drift
from benchmarks.drift import CHANGES, false_alarms, images_until_seen, predictions, shifted
from benchmarks.harness import plans
from moleflow_pl import MoLEFlow
from tests.helpers.benchmarks import TINY, last_rows, run_script
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
        drift.main, monkeypatch, f"--root={data_root}", "--products", "01", "b", "--small",
        "--backbones=tiny", f"--folder={tmp_path}",
    )  # fmt: skip
    rows = last_rows(capsys)
    for product in ("01", "b"):
        assert f"{TINY.name}: {product}, steady: drift reported" in rows
        for change in CHANGES:
            assert f"{TINY.name}: {product}, {change}: images until drift" in rows
