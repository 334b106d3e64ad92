import copy

import pytest
import torch

from moleflow_pl.errors import ConfigError
from moleflow_pl.features.region_of_interest import (
    Region,
    RegionsOfInterest,
    patches_inside,
    rows_of,
    scores_inside,
)
from moleflow_pl.scoring.functional import tail_mean

LEFT = torch.tensor([[True, False, False], [True, True, False]])


def highest(patch_scores: torch.Tensor) -> torch.Tensor:
    return patch_scores.flatten(1).amax(1)


def test_a_patch_counts_from_half_of_its_pixels_on() -> None:
    pixels = torch.zeros(4, 8)
    pixels[:2, :4] = 255  # half of the left patch
    pixels[0, 4] = 1
    assert patches_inside(pixels, (1, 2)).tolist() == [[True, False]]
    with pytest.raises(ConfigError, match="covers half of none of the 1 x 1 patches"):
        patches_inside(pixels, (1, 1))


def test_rows_are_those_inside_in_their_order() -> None:
    values = torch.arange(6).reshape(1, 2, 3)
    assert rows_of(values, Region.of(LEFT)).tolist() == [[[0, 3, 4]]]
    assert rows_of(values, None) is values


def test_patches_spread_over_a_region_are_all_inside_it() -> None:
    region = Region.of(torch.rand(9, 7) < 0.4)
    places = region.places.tolist()
    assert sorted(region.spread(len(places)).tolist()) == places
    assert set(region.spread(3).tolist()) <= set(places)
    assert set(region.spread(200).tolist()) == set(places)


@pytest.mark.parametrize("shift", [0.0, 10.0, -10.0])
def test_nothing_outside_exceeds_what_is_inside(shift: float) -> None:
    scores = torch.rand(4, 2, 3) + shift
    scores[:, ~LEFT] = 99.0
    covered = Region.of(LEFT).cover(scores)
    assert torch.equal(covered[:, LEFT], scores[:, LEFT])
    lowest = scores[:, LEFT].amin(1) if shift < 0 else torch.zeros(4)
    assert torch.equal(covered[:, ~LEFT], lowest[:, None].expand(-1, 3))


def test_the_frame_holds_the_region_in_pixels_of_the_image() -> None:
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[1, 2], inside[2, 4] = True, True
    rows, columns = Region.of(inside).frame((40, 30))
    assert (rows.start, rows.stop, columns.start, columns.stop) == (10, 30, 10, 25)


def test_each_image_is_scored_by_the_patches_of_its_own_task() -> None:
    scores = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))
    region, index = Region.of(LEFT), torch.tensor([0, 1, 2, 0, 1, 2])
    found, covered = scores_inside(scores, tail_mean, [None, region, region], index)
    for i, one in enumerate(scores):
        seen = one if index[i] == 0 else one[LEFT]
        assert found[i] == seen.max()
        assert covered[i].max() == seen.max()
    alone, same = scores_inside(scores, highest, [None], torch.zeros(6, dtype=torch.long))
    assert same is scores
    assert torch.equal(alone, highest(scores))


def test_a_region_is_found_again_after_it_changed_moved_or_was_loaded() -> None:
    regions = RegionsOfInterest()
    regions.add(0, (2, 3))
    regions.add(1, (2, 3))
    other = copy.deepcopy(regions)
    assert regions.for_task(0) is None
    regions.set(0, LEFT)
    regions.set(1, LEFT)
    assert torch.equal(regions.for_task(0).inside, LEFT)  # type: ignore[union-attr]
    assert regions.for_task(0) is regions.for_task(1)
    assert regions.for_task(2) is None
    other.load_state_dict(regions.state_dict())
    assert torch.equal(other.for_task(1).inside, LEFT)  # type: ignore[union-attr]
    assert regions.to(torch.float64).for_task(0).places.tolist() == [0, 3, 4]  # type: ignore[union-attr]
