import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from moleflow_pl.metrics.names import METRICS
from tests.helpers.scores import scored


def test_image_auroc_is_sklearns_for_both_ways() -> None:
    labels, scores = [0, 1, 0, 1, 1], [120.0, 119.5, 118.0, 121.0, 118.0]
    metrics = scored(0, labels, [0] * 5, scores).metrics()["values"]["image_auroc"]
    oracle = [s + label for s, label in zip(scores, labels, strict=True)]
    assert metrics["routed"] == pytest.approx(roc_auc_score(labels, scores))
    assert metrics["oracle"] == pytest.approx(roc_auc_score(labels, oracle))


def test_pixel_auroc_compares_maps_with_masks_at_the_maps_size() -> None:
    torch.manual_seed(0)
    one = scored(0, [0, 1, 1], [0, 0, 0], [0.0, 0.1, 0.2])
    torch.manual_seed(0)
    maps = torch.rand(3, 8, 8) + torch.tensor([0.0, 0.1, 0.2])[:, None, None]
    pixels = torch.nn.functional.interpolate(maps[:, None], (32, 32), mode="bilinear")
    truth = torch.zeros(3, 32, 32)
    truth[1:, :, :16] = 1
    expected = roc_auc_score(truth.flatten().numpy(), pixels.flatten().numpy())
    assert one.metrics()["values"]["pixel_auroc"]["routed"] == pytest.approx(expected, abs=1e-6)


def test_the_other_metrics_are_sklearns_too() -> None:
    labels, scores = [0, 1, 0, 1, 1], [120.0, 119.5, 118.0, 121.0, 118.0]
    one = scored(0, labels, [0] * 5, scores)
    metrics = one.metrics()
    expected = average_precision_score(labels, scores)
    assert metrics["values"]["image_ap"]["routed"] == pytest.approx(expected)
    called = np.array(scores) >= metrics["f1_threshold"]["routed"]
    assert metrics["values"]["image_f1_max"]["routed"] == pytest.approx(f1_score(labels, called))
    maps, masks = map(torch.stack, zip(*one.maps(range(5)), strict=True))
    expected = average_precision_score(masks.flatten().numpy(), maps.flatten().numpy())
    assert metrics["values"]["pixel_ap"]["routed"] == pytest.approx(expected, abs=1e-6)
    assert 0 <= metrics["values"]["aupro"]["routed"] <= 1
    assert metrics["pixel_error_bound"] < 1e-3


def test_masks_survive_being_packed() -> None:
    one = scored(0, [0, 1], [0, 0], [1.0, 2.0])
    assert not one.mask(0).any()
    assert one.mask(1).float().mean(0).tolist() == [1.0] * 16 + [0.0] * 16


def test_mask_smaller_than_a_pixel_of_the_map_is_no_region() -> None:
    one = scored(0, [0, 1], [0, 0], [1.0, 2.0])
    speck = torch.zeros(512, 512, dtype=torch.uint8)
    speck[3, 3] = 1
    one._masks = [one._packed(torch.zeros(4, 4)), one._packed(speck)]
    values = one.metrics()["values"]
    assert values["pixel_auroc"]["routed"] is None
    assert values["image_auroc"]["routed"] == 1.0


def test_what_cannot_be_had_is_none() -> None:
    without_masks = scored(0, [0, 1], [0, 0], [1.0, 2.0], masks=False).metrics()["values"]
    assert without_masks["pixel_auroc"] == {"routed": None, "oracle": None}
    all_good = scored(0, [0, 0], [0, 0], [1.0, 2.0]).metrics()["values"]
    assert all_good["image_auroc"] == {"routed": None, "oracle": None}
    assert set(without_masks) == set(METRICS)


MEMORY = """
from moleflow_pl.report.gallery import _scale
from tests.helpers.scores import anonymous_mb, scored_at_1024
before = anonymous_mb()
scores = scored_at_1024(40)
metrics = scores.metrics()["values"]
_scale(scores, range(40))
print(anonymous_mb(peak=True) - before, metrics["aupro"]["routed"])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_bounded_at_1024_pixels() -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    growth, aupro = map(float, result.stdout.split())
    # 40 maps, twice, with their masks and one sort of them would take 800 MB
    assert growth < 400
    assert 0 <= aupro <= 1
