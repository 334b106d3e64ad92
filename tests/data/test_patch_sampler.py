import math

import pytest
import torch
from torch import Tensor

from moleflow_pl.data.patch_sampler import PatchDraw, draw_of

IMAGES = 4000


def drawn(grid: tuple[int, int], wanted: int, epoch: int = 0) -> Tensor:
    return PatchDraw(grid, wanted, 0, ("a", epoch))(range(IMAGES))


@pytest.mark.parametrize(
    ("grid", "wanted"), [((16, 16), 64), ((3, 5), 4), ((5, 7), 30), ((4, 4), 1), ((1, 9), 8)]
)
def test_every_patch_has_the_same_chance_and_none_comes_twice(
    grid: tuple[int, int], wanted: int
) -> None:
    found = drawn(grid, wanted)
    assert found.sort(1).values.diff(dim=1).gt(0).all()
    count = math.prod(grid)
    times = torch.bincount(found.flatten(), minlength=count)
    assert len(times) == count
    chance = wanted / count
    deviation = math.sqrt(IMAGES * chance * (1 - chance))
    assert (times - IMAGES * chance).abs().max() < 5 * deviation


def test_a_quarter_is_one_of_every_four_neighbours() -> None:
    found = drawn((8, 12), 24)
    # by its place in a block of two by two
    rows, columns = found // 12, found % 12
    blocks = rows // 2 * 6 + columns // 2
    assert torch.equal(blocks.sort(1).values, torch.arange(24).expand(IMAGES, -1))


def test_a_mean_over_balanced_patches_varies_less_than_over_random_patches() -> None:
    shade = torch.linspace(0, 1, 16)[:, None] + torch.linspace(0, 2, 16)
    free = torch.stack([torch.randperm(256)[:64] for _ in range(IMAGES)])
    spread, scattered = (shade.flatten()[places].mean(1) for places in (drawn((16, 16), 64), free))
    assert spread.mean() == pytest.approx(1.5, abs=1e-3)
    assert spread.std() < scattered.std() / 5


def test_draws_differ_by_image_epoch_and_seed_but_not_by_batch() -> None:
    draw = PatchDraw((4, 4), 4, 0, ("a", 0))
    assert torch.equal(draw([3, 7])[1], draw([7])[0])
    others = [
        draw([3]),
        PatchDraw((4, 4), 4, 0, ("a", 1))([7]),
        PatchDraw((4, 4), 4, 1, ("a", 0))([7]),
    ]
    assert not any(torch.equal(draw([7]), other) for other in others)


def test_only_patches_that_count_are_drawn_and_all_of_them_as_often() -> None:
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[1:4, 2:7] = True
    draw = draw_of(inside, 0.4, 0, ("a", 0))
    assert draw is not None
    found = draw(range(IMAGES))
    assert found.shape == (IMAGES, 6)
    assert found.sort(1).values.diff(dim=1).gt(0).all()
    times = torch.bincount(found.flatten(), minlength=inside.numel()).reshape(inside.shape)
    assert torch.equal(times > 0, inside)
    deviation = math.sqrt(IMAGES * 0.4 * 0.6)
    assert (times[inside] - IMAGES * 0.4).abs().max() < 5 * deviation


def test_a_step_on_all_patches_that_count_draws_each_once() -> None:
    inside = torch.eye(5, dtype=torch.bool)
    draw = draw_of(inside, 1.0, 0, ("a", 0))
    assert draw is not None
    assert draw([3])[0].sort().values.tolist() == [0, 6, 12, 18, 24]
