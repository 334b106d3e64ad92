from collections.abc import Iterator

import pytest
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

import moleflow_pl.metrics.pixel as pixel_metrics
from moleflow_pl.metrics.pixel import PixelHistogram, bin_edges
from tests.helpers.oracles import literal_aupro


def histogram_of(maps: Tensor, masks: Tensor) -> PixelHistogram:
    def pixels() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(maps, masks, strict=True)

    histogram = PixelHistogram(bin_edges(pixels, (maps.numel(), int(masks.sum()))))
    for scores, mask in pixels():
        histogram.update(scores, mask)
    return histogram


def draw(shape: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Maps near 120 and masks of a few blobs; the first image is good."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    smooth = torch.from_numpy(ndimage.gaussian_filter(noise.numpy(), (0, 3, 3)))
    masks = smooth > smooth.std()
    masks[0] = False
    return 120 + noise + 2 * masks, masks


CASES = {
    "random": draw((4, 24, 24)),
    "oblong": draw((3, 10, 50), seed=1),
    "ties": (lambda m: (m[0].round(), m[1]))(draw((4, 24, 24), seed=2)),
    "constant": (torch.full((2, 8, 8), 120.0), draw((2, 8, 8))[1] | (torch.arange(8) < 2)),
    "perfect": (lambda m: (m[1].float(), m[1]))(draw((4, 24, 24), seed=3)),
    "upside down": (lambda m: (-m[1].float(), m[1]))(draw((4, 24, 24), seed=3)),
    "one pixel": (
        draw((2, 9, 9), seed=4)[0],
        torch.eye(81)[40].reshape(1, 9, 9).repeat(2, 1, 1) > 0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_equal_independent_ones(case: str) -> None:
    maps, masks = CASES[case]
    histogram = histogram_of(maps, masks)
    labels, scores = masks.flatten().numpy(), maps.flatten().numpy()
    assert histogram.auroc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    expected = average_precision_score(labels, scores)
    assert histogram.average_precision() == pytest.approx(expected, abs=1e-9)
    expected = literal_aupro(maps.numpy(), masks.numpy())
    assert histogram.aupro() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_limit_is_interpolated_and_normalised(limit: float) -> None:
    maps, masks = CASES["random"]
    expected = literal_aupro(maps.numpy(), masks.numpy(), limit)
    assert histogram_of(maps, masks).aupro(limit) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("masks", [torch.zeros(2, 4, 4), torch.ones(2, 4, 4)])
def test_one_class_has_no_metric(masks: Tensor) -> None:
    histogram = histogram_of(torch.rand(2, 4, 4), masks.bool())
    assert histogram.auroc() is histogram.average_precision() is histogram.aupro() is None


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 0]]]).bool()
    assert histogram_of(torch.rand(1, 3, 3), mask).regions == 1


def test_more_pixels_than_bins_stay_within_the_stated_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pixel_metrics, "SAMPLE", 2**12)
    maps, masks = draw((20, 128, 128))
    histogram = histogram_of(maps, masks)
    assert len(histogram.edges) <= 2 * 2**12 + 2
    bounds = histogram.error_bounds()
    assert max(bounds.values()) < 1e-3
    labels, scores = masks.flatten().numpy(), maps.flatten().numpy()
    error = abs(histogram.auroc() - roc_auc_score(labels, scores))
    assert error <= bounds["auroc"] + 1e-12
    error = abs(histogram.average_precision() - average_precision_score(labels, scores))
    assert error <= bounds["average_precision"] + 1e-12
    few, few_masks = maps[:3, :48, :48].contiguous(), masks[:3, :48, :48].contiguous()
    monkeypatch.setattr(pixel_metrics, "SAMPLE", 2**9)
    binned = histogram_of(few, few_masks)
    assert len(binned.edges) < few.numel() / 3
    error = abs(binned.aupro() - literal_aupro(few.numpy(), few_masks.numpy()))
    assert 0 < error <= binned.error_bounds()["aupro"]


def test_average_precision_is_exact_where_each_defects_score_is_an_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pixel_metrics, "SAMPLE", 2**9)
    maps, masks = draw((20, 64, 64))
    masks &= torch.rand(masks.shape) > 0.98
    histogram = histogram_of(maps, masks)
    histogram.every_defect = int(masks.sum()) <= 2**9
    assert histogram.every_defect
    assert histogram.error_bounds()["average_precision"] == 0
    expected = average_precision_score(masks.flatten().numpy(), maps.flatten().numpy())
    assert histogram.average_precision() == pytest.approx(expected, abs=1e-9)


def test_sample_is_spread_over_all_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_metrics, "SAMPLE", 10)
    maps = torch.arange(100.0).reshape(4, 5, 5)
    masks = torch.zeros(4, 5, 5).bool()
    edges = bin_edges(lambda: zip(maps, masks, strict=True), (100, 0))
    assert edges.tolist() == list(range(0, 100, 10))
