import torch

from benchmarks.harness.one_model import (
    DEFAULT_WAY,
    IMAGE_WAYS,
    add_differences,
    descriptor,
    structure,
)
from benchmarks.harness.report import Report
from moleflow_pl.scoring.functional import tail_mean


def maps(count: int, seed: int) -> torch.Tensor:
    """Maps (N, 16, 16) of good images."""
    return torch.rand(count, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_the_first_way_is_the_models_own() -> None:
    patches = maps(4, 0)
    assert torch.equal(IMAGE_WAYS[DEFAULT_WAY](patches, maps(3, 1)), tail_mean(patches))


def test_every_way_ranks_a_bright_defect_above_good_images() -> None:
    patches, good = maps(21, 0), maps(20, 1)
    patches[-1, 4:8, 4:8] += 3
    for name, way in IMAGE_WAYS.items():
        scores = way(patches, good)
        assert scores.shape == (21,), name
        assert scores.argmax() == 20, name


def test_a_defect_that_is_scattered_varies_more_than_one_in_one_place() -> None:
    whole, scattered = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    whole[:, :4, :4] = 1
    scattered[:, ::2, ::2] = 1
    together, apart = descriptor(whole)[0], descriptor(scattered)[0]
    torch.testing.assert_close(together[:2], apart[:2])
    assert apart[2] > 3 * together[2]


def test_structure_is_measured_in_deviations_of_good_images() -> None:
    good = maps(50, 0)
    squares = structure(good, good).square()
    torch.testing.assert_close(squares.mean(), torch.tensor(3 * 49 / 50), rtol=1e-3, atol=0.0)


def test_mean_hides_no_product_that_loses() -> None:
    report = Report("x")
    figures = {"first": {"a": 0.5, "b": 0.5}, "other": {"a": 0.75, "b": 0.375}}
    add_differences(report, "t", figures, "first")
    notes = {row.what: row.note for row in report.rows}
    assert notes["t, other: mean"] == "+0.0625, the worst of 2 products -0.1250"
    assert notes["t, other: a"] == "+0.2500"
    assert notes["t, first: mean"] == ""
