import json
import math

import numpy as np
import pytest
import torch
from jsonschema import validate

from moleflow_pl.inference.decisions import DecisionMaker, Prediction
from moleflow_pl.model.inspector import Inspection
from moleflow_pl.scoring.guided_map import guides_of, pixel_map
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.schedule import TaskSchedule
from moleflow_pl.tasks.thresholds import threshold
from tests.helpers.commands import ROOT

PREDICTION_SCHEMA = ROOT / "docs" / "reference" / "prediction.schema.json"


def test_a_product_of_a_group_has_its_own_threshold_where_it_is_given() -> None:
    numbers = [1.0, 2.0, 30.0, 40.0]
    products = ["a", "b", "b", "a"]
    schedule = TaskSchedule()
    schedule.extend([["a", "b"]], epochs=1)
    schedule.tasks[0].epochs_done = 1
    schedule.tasks[0].calibration = Calibration(
        numbers, numbers, numbers, numbers, numbers, products
    )
    for told, scores in (("a", [1.0, 40.0]), ("b", [2.0, 30.0]), ("a+b", numbers), (None, numbers)):
        limits = DecisionMaker(schedule, told).limits[0]
        assert limits.score == threshold(scores).value
        assert limits.pixel == np.median(scores)
        assert limits.median_score == np.median(scores)


def test_a_score_of_nan_is_never_normal() -> None:
    """Damaged weights, or an image beyond all numbers."""
    numbers = [1.0, 2.0, 30.0, 40.0]
    schedule = TaskSchedule()
    schedule.extend([["a"]], epochs=1)
    schedule.tasks[0].epochs_done = 1
    schedule.tasks[0].calibration = Calibration(numbers, numbers, numbers, numbers, numbers)
    scores = torch.tensor([math.nan, 1.0, 1e9])
    zeros = torch.zeros(3)
    found = Inspection(scores, torch.zeros(3, 2, 2), zeros.long(), zeros[:, None], zeros[:, None])
    labels = [one.label for one in DecisionMaker(schedule).decide(found, [(8, 8)] * 3)]
    assert labels == ["anomalous", "normal", "anomalous"]


def test_a_prediction_keeps_no_map_of_all_pixels() -> None:
    patches = torch.zeros(4, 4)
    patches[1, 1] = 9.0
    found = Prediction("a", 1.0, 0.0, None, patches, (200, 300), "anomalous", pixel_threshold=1.0)
    assert found.anomaly_map.shape == (200, 300)
    assert len(found.boxes) == 1
    kept = [value for value in vars(found).values() if isinstance(value, torch.Tensor)]
    assert [value.shape for value in kept] == [(4, 4)]
    assert found.boxes is found.boxes


def test_a_prediction_made_with_its_image_has_a_map_that_follows_it() -> None:
    schedule = TaskSchedule()
    schedule.extend([["a"]], epochs=1)
    schedule.tasks[0].epochs_done = 1
    zeros, patches = torch.zeros(2), torch.rand(2, 3, 4)
    found = Inspection(zeros, patches, zeros.long(), zeros[:, None], zeros[:, None])
    images = torch.randint(0, 256, (2, 3, 30, 40), dtype=torch.uint8)
    with_images, without = (
        DecisionMaker(schedule).decide(found, [(60, 80)] * 2, given) for given in (images, None)
    )
    guides = guides_of(images, (3, 4))
    for i, prediction in enumerate(with_images):
        expected = pixel_map(patches[i], (60, 80), guides[i])
        assert torch.equal(prediction.anomaly_map, expected)
        assert "guide" not in prediction.to_dict()
    assert torch.equal(without[1].anomaly_map, pixel_map(patches[1], (60, 80)))


def test_a_prediction_is_plain_values_for_json() -> None:
    patches = torch.zeros(4, 4)
    patches[1, 1] = 9.0
    found = Prediction(
        "a", 1.5, 0.25, None, patches, (20, 30), "anomalous", 1.0, 0.75, math.inf, 1.0, 0.0
    )
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    (box,) = found.boxes
    validate(read, json.loads(PREDICTION_SCHEMA.read_text()))
    assert read == {
        "product": "a", "score": 1.5, "router_distance": 0.25, "router_margin": None,
        "size": [20, 30], "label": "anomalous", "threshold": 1.0, "normalised_score": 0.75,
        "novelty_ratio": None, "pixel_threshold": 1.0, "median_patch_score": 0.0,
        "brightness": None,
        "boxes": [{
            "left": box.left, "top": box.top, "width": box.width, "height": box.height,
            "peak": pytest.approx(box.peak),
        }],
    }  # fmt: skip


def test_a_prediction_is_shown_in_one_short_line() -> None:
    found = Prediction("a", 1.0, 0.0, None, torch.zeros(37, 37), (200, 300))
    assert repr(found) == "Prediction('a', score 1)"


def test_only_an_anomalous_image_has_defects() -> None:
    patches = torch.zeros(4, 4)
    patches[1, 1] = 9.0
    for label, count in (("anomalous", 1), ("normal", 0), ("unknown_product", 0)):
        found = Prediction("a", 1.0, 0.0, None, patches, (8, 8), label, pixel_threshold=1.0)
        assert len(found.boxes) == count
        assert found.mask.any() == bool(count)
