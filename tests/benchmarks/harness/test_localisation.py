from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import decisions
from benchmarks.harness import localisation
from benchmarks.harness.fits import load_model
from benchmarks.harness.localisation import (
    FIRST,
    PLAIN,
    USED,
    Defect,
    best_of,
    box_iou,
    gain,
    pixel_iou,
    ways,
)
from moleflow_pl import Predictor
from tests.helpers.benchmarks import last_rows, run_script
from tests.helpers.models import fit
from tests.helpers.products import SIZE, draw_product


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two products with masks and calibration images."""
    place = tmp_path_factory.mktemp("localisation")
    for seed, name in enumerate("ab"):
        draw_product(place, name, 3 * seed, train=12)
    data = {"val_fraction": 0.5}
    fit(place / "run", place, ["a", "b"], epochs=1, callbacks=[], data=data)
    return place / "run"


def a_defect() -> Defect:
    """A bright square on dark, found at its place by patches that are wider than it."""
    truth = np.zeros((SIZE, SIZE), dtype=bool)
    truth[20:28, 20:28] = True
    image = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    image[..., 20:28, 20:28] = 255
    scores = torch.zeros(4, 4)
    scores[1:3, 1:3] = 1.0
    return Defect(scores, image, truth)


def test_ious_are_those_of_masks_and_of_the_best_boxes() -> None:
    truth = np.zeros((10, 10), dtype=bool)
    truth[2:4, 2:4] = True
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:4, 2:6] = mask[8, 8] = True
    assert pixel_iou(mask, truth) == pytest.approx(4 / 9)
    assert box_iou(mask, truth) == pytest.approx(4 / 8)
    assert box_iou(np.zeros_like(mask), truth) == pixel_iou(np.zeros_like(mask), truth) == 0


def test_every_way_gives_a_map_of_the_size_of_the_image() -> None:
    for way in ways().values():
        assert way(a_defect()).shape == (SIZE, SIZE)
    assert torch.equal(
        ways()[PLAIN](a_defect()),
        torch.nn.functional.interpolate(
            a_defect().patch_scores[None, None], (SIZE, SIZE), mode="bilinear"
        )[0, 0],
    )


@pytest.mark.parametrize(
    "name", [USED, "guided, window 33, epsilon 0.0001", "bilateral, 8 px, colour 0.05"]
)
def test_a_map_that_follows_the_image_ends_where_the_defect_does(name: str) -> None:
    if name != USED and find_spec("kornia") is None:
        pytest.skip("kornia is not installed")
    defect = a_defect()
    found, plain = ways()[name](defect), ways()[PLAIN](defect)
    inside, outside = found[22:26, 22:26].mean(), found[14:17, 22:26].mean()
    assert inside - outside > plain[22:26, 22:26].mean() - plain[14:17, 22:26].mean()


def test_the_best_way_is_chosen_among_those_that_are_not_in_use() -> None:
    values = {FIRST: 0.9, USED: 0.8, PLAIN: 0.7, "x": 0.2, "y": 0.3}
    assert best_of({name: np.full((3, 2), value) for name, value in values.items()}) == "y"


def test_the_interval_of_a_gain_holds_its_mean() -> None:
    mean, low, high = gain(np.random.default_rng(0).normal(1, 1, 400))
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_figures_are_of_the_masks_that_predictions_have(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"layout": "mvtec", "root": str(run.parent), "val_fraction": 0.5}
    monkeypatch.setattr(localisation, "load_run", lambda path: (load_model(path), data))
    arguments = ["localisation", run, "--choose", "a", "--confirm", "b"]
    assert run_script(decisions.main, monkeypatch, *arguments) in (0, 1)
    rows = last_rows(capsys)
    # below every score: each image is anomalous, and has its mask
    predictor, place = Predictor.load(run, "b", thresholds={"b": -1e9}), run.parent / "b"
    truth = np.zeros((SIZE, SIZE), dtype=bool)
    truth[10:26, 14:30] = True
    masks = [one.mask for one in predictor(sorted((place / "test" / "square").iterdir()))]
    expected = np.mean([pixel_iou(mask, truth) for mask in masks])
    assert rows[f"b, {USED}: pixel IoU"]["value"] == pytest.approx(expected)
    assert {what.partition(",")[0] for what in rows if "times" not in what} == {"a", "b"}
    assert len([what for what in rows if what.startswith("b, ") and "box" in what]) == 4
