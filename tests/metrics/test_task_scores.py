import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor

from moleflow_pl.data.images import read_image
from moleflow_pl.metrics.names import METRICS
from moleflow_pl.metrics.task_scores import EvaluationOptions
from moleflow_pl.scoring.functional import anomaly_map
from moleflow_pl.scoring.guided_map import guides_of, pixel_map
from tests.helpers.oracles import literal_aupro, sorted_aupro
from tests.helpers.scores import scored, scored_at_1024, scores_on


def test_image_auroc_is_sklearns_in_both_routing_modes() -> None:
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


def pixels_and_truth(labels: list[int], offsets: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks of `scored` at the size of a map, by torch alone; call it at the same seed."""
    maps = torch.rand(len(labels), 8, 8) + torch.tensor(offsets)[:, None, None]
    pixels = torch.nn.functional.interpolate(maps[:, None], (32, 32), mode="bilinear")[:, 0]
    truth = np.zeros((len(labels), 32, 32), bool)
    truth[np.array(labels, bool), :, :16] = True
    return pixels.numpy(), truth


def best_f1(labels: list[int], scores: list[float]) -> float:
    return max(f1_score(labels, np.array(scores) >= threshold) for threshold in scores)


def test_image_metrics_are_sklearns_and_no_threshold_has_a_better_f1() -> None:
    labels, scores = [0, 1, 0, 1, 1, 0], [120.0, 119.5, 118.0, 121.0, 118.0, 119.7]
    metrics = scored(0, labels, [0] * 6, scores).metrics()
    oracle = [s + label for s, label in zip(scores, labels, strict=True)]
    for mode, of_mode in (("routed", scores), ("oracle", oracle)):
        values = {name: by_mode[mode] for name, by_mode in metrics["values"].items()}
        assert values["image_ap"] == pytest.approx(average_precision_score(labels, of_mode))
        assert values["image_f1_max"] == pytest.approx(best_f1(labels, of_mode))
        called = np.array(of_mode) >= metrics["f1_threshold"][mode]
        assert f1_score(labels, called) == pytest.approx(values["image_f1_max"])
    # neither a median nor a half of all would have done
    assert best_f1(labels, scores) > f1_score(labels, np.array(scores) >= np.median(scores))


def test_pixel_metrics_are_independent_ones_of_maps_made_by_torch() -> None:
    labels, offsets = [0, 1, 1, 0], [0.0, 0.1, 0.3, 0.2]
    torch.manual_seed(0)
    metrics = scored(0, labels, [0] * 4, offsets).metrics()
    torch.manual_seed(0)
    maps, masks = pixels_and_truth(labels, offsets)
    expected = average_precision_score(masks.ravel(), maps.ravel())
    assert metrics["values"]["pixel_ap"]["routed"] == pytest.approx(expected, abs=1e-6)
    expected = literal_aupro(maps, masks)
    assert metrics["values"]["aupro"]["routed"] == pytest.approx(expected, abs=1e-6)
    assert metrics["pixel_error_bound"] < 1e-3


def test_masks_survive_being_packed() -> None:
    one = scored(0, [0, 1], [0, 0], [1.0, 2.0])
    assert not one.mask(0).any()
    assert one.mask(1).float().mean(0).tolist() == [1.0] * 16 + [0.0] * 16


def test_mask_smaller_than_a_pixel_of_the_map_is_no_region() -> None:
    speck = torch.zeros(512, 512, dtype=torch.uint8)
    speck[3, 3] = 1
    masks = [torch.zeros_like(speck), speck]
    values = scored(0, [0, 1], [0, 0], [1.0, 2.0], masks).metrics()["values"]
    assert values["pixel_auroc"]["routed"] is None
    assert values["image_auroc"]["routed"] == 1.0


def test_metrics_that_do_not_exist_are_none() -> None:
    without_masks = scored(0, [0, 1], [0, 0], [1.0, 2.0], masks=False).metrics()["values"]
    assert without_masks["pixel_auroc"] == {"routed": None, "oracle": None}
    all_good = scored(0, [0, 0], [0, 0], [1.0, 2.0]).metrics()["values"]
    assert all_good["image_auroc"] == {"routed": None, "oracle": None}
    assert set(without_masks) == set(METRICS)


def test_guided_maps_are_those_of_predict(data_root: Path) -> None:
    options = EvaluationOptions(map_size=48, blur_sigma=0.0, upsampling="guided")
    scores = scores_on(data_root, ["b", "c"], options=options)
    found = [one for one, _ in scores.maps(range(len(scores.rows)))]
    guided = 0
    for i, row in enumerate(scores.rows):
        channels = read_image(Path(row["path"]), (48, 48))[None]
        patches, (guide,) = scores.patch_scores(i), guides_of(channels, (12, 12))
        wanted = pixel_map(patches, (48, 48), guide if scores.has_mask(i) else None)
        torch.testing.assert_close(found[i], wanted)
        guided += not torch.allclose(wanted, pixel_map(patches, (48, 48)), atol=1e-3)
    assert guided  # the guide matters
    scores.patch_scores(1)[0, 0] = torch.nan  # such a map cannot follow the image
    broken = [one for one, _ in scores.maps(range(len(scores.rows)))][1]
    assert broken.isnan().any()
    assert not broken.isnan().all()


def test_few_maps_are_there_at_once_and_a_mask_takes_a_bit_a_pixel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counting(patches: Tensor, *args: Any) -> Tensor:
        maps = anomaly_map(patches, *args)
        made.append(maps.numel())
        return maps

    monkeypatch.setattr("moleflow_pl.metrics.task_scores.anomaly_map", counting)
    scores = scored_at_1024(3)
    metrics = scores.metrics()
    assert max(made) <= 2**21  # two maps of 1024 x 1024
    assert sum(made) >= 2 * 3 * 2**20  # of both routing modes
    assert len(pickle.dumps(scores)) < 3 * (2**20 / 8 + 2 * 4 * 37**2 + 2000)
    every = list(scores.maps(range(3)))
    maps, masks = (torch.stack([pair[i] for pair in every]).numpy() for i in (0, 1))
    found = metrics["values"]["aupro"]["routed"]
    assert found == pytest.approx(sorted_aupro(maps, masks), abs=metrics["pixel_error_bound"])
    assert 0.2 < found < 0.9  # neither chance nor perfect


# stops where the process would take more than a limit; without one, how far it would have gone
MEMORY = """
import resource, sys
from pathlib import Path
import torch
from moleflow_pl.report.gallery import build_gallery
from tests.helpers.scores import scored_at_1024
scored_at_1024(1).metrics()  # what is made once, and stays
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 250 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
scores = scored_at_1024(24)
scores.metrics()
build_gallery(scores, ["p"])
try:
    kept = [
        torch.stack([one for one, _ in scores.maps(range(24), mode)]).sort()
        for mode in ("routed", "oracle")
    ]
except RuntimeError:
    print("beyond the limit")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits are Linux'")
def test_metrics_of_many_images_at_1024_pixels_need_less_than_their_maps() -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "beyond the limit"
