import numpy as np
import pytest
import torch

from moleflow_pl.scoring import memory_bank
from moleflow_pl.scoring.memory_bank import MemoryBank, bank_size, coreset, projection_distance
from tests.helpers.oracles import literal_distances


@pytest.mark.parametrize("size", [3, 20])
def test_distance_is_that_to_the_literal_projection(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_bank, "ROWS", 7)  # an image has more rows than go at once
    bank = MemoryBank(8, size)
    bank.fill(torch.randn(50, 8), torch.Generator().manual_seed(0))
    images = torch.randn(2, 5, 6, 8)
    expected = [
        literal_distances(image.flatten(0, 1).double().numpy(), bank.vectors.double().numpy())
        for image in images
    ]
    found = projection_distance(images, bank.vectors)
    np.testing.assert_allclose(found.flatten(1), expected, rtol=1e-4)


def test_distance_does_not_depend_on_the_batch() -> None:
    bank, images = torch.randn(20, 8).half(), torch.randn(3, 4, 4, 8)
    together = projection_distance(images, bank)
    for image, distances in zip(images, together, strict=True):
        assert torch.equal(projection_distance(image[None], bank)[0], distances)


def test_latents_in_the_bank_have_a_finite_distance() -> None:
    rows = torch.randn(6, 8).half()
    distances = projection_distance(rows.float().reshape(1, 2, 3, 8), rows)
    assert distances.isfinite().all()
    same = projection_distance(torch.ones(1, 2, 2, 3), torch.ones(9, 3).half())
    assert same.abs().max() < 1e-5


def test_a_defect_in_an_image_that_is_in_the_bank_keeps_its_distance() -> None:
    # most squared distances are 0, and so is their median
    image = torch.zeros(1, 4, 4, 3)
    image[0, 0, 0] = torch.tensor([3.0, 4.0, 0.0])
    distances = projection_distance(image, torch.zeros(9, 3).half())
    assert distances[0, 0, 0].item() == 5.0
    assert distances.sum().item() == 5.0


def test_no_image_has_no_distances() -> None:
    assert projection_distance(torch.empty(0, 4, 5, 8), torch.randn(9, 8)).shape == (0, 4, 5)


@pytest.mark.parametrize("channels", [8, 200])
def test_a_coreset_has_one_of_each_group(channels: int) -> None:
    # as many groups as rows: the optimal choice has one of each, and so has the greedy one
    centres = 20 * torch.randn(12, channels)
    rows = (centres[:, None] + 0.1 * torch.randn(12, 40, channels)).flatten(0, 1)
    chosen = coreset(rows, 12, torch.Generator().manual_seed(0))
    assert sorted((chosen // 40).tolist()) == list(range(12))


@pytest.mark.parametrize("pool", [1, 5, 1000])
@pytest.mark.parametrize("size", [9, 60, 299])
def test_coreset_equals_the_literal_farthest_points(
    pool: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_bank, "POOL", pool)
    monkeypatch.setattr(memory_bank, "ROWS", 70)
    rows = torch.randn(300, 8)
    chosen = coreset(rows, size, torch.Generator().manual_seed(0)).tolist()
    assert len(set(chosen)) == size
    apart = torch.cdist(rows.double(), rows.double())
    for i in range(1, size):
        assert chosen[i] == apart[:, chosen[:i]].amin(1).argmax()


def test_a_vector_in_the_bank_is_that_of_a_patch_to_a_level_of_its_range() -> None:
    vectors = torch.randn(9, 50) * torch.logspace(-3, 3, 9)[:, None]
    bank = MemoryBank(50, 9)
    bank.fill(vectors, torch.Generator().manual_seed(0))
    largest = vectors.abs().amax(1)
    for vector in bank.vectors.float():
        apart = (vectors - vector).abs().amax(1) / largest
        assert apart.min() <= 0.5 / 127 + 1e-3  # half a level, and half precision
    assert bank.values.dtype == torch.int8


def test_size_of_a_bank_follows_the_patches_within_its_limits() -> None:
    assert bank_size(100, [64], 4.0) == 100
    assert bank_size(5000, [64], 4.0) == 2000
    assert bank_size(320_000, [64], 4.0) == 10_000
    assert bank_size(320_000, [64, 128], 0.1) == int(1e5 / 200)
    assert bank_size(100, [64], 1e-6) == 1


def test_a_vector_beyond_half_precision_leaves_the_others_their_distances() -> None:
    bank = MemoryBank(2, size=2)
    bank.fill(torch.tensor([[0.0, 0.0], [1e6, 0.0]]), torch.Generator())
    distance = projection_distance(torch.tensor([[[[3.0, 4.0]]]]), bank.vectors)
    assert distance.item() == 5.0


def test_bank_holds_no_latent_twice_and_the_rare_ones() -> None:
    latents = torch.cat([torch.randn(500, 100), torch.randn(3, 100) + 30])
    for seed in range(5):
        bank = MemoryBank(100, size=10)
        bank.fill(latents, torch.Generator().manual_seed(seed))
        chosen = torch.cdist(bank.vectors.float(), latents).argmin(1).tolist()
        assert len(set(chosen)) == 10
        assert any(index >= 500 for index in chosen)


def test_equal_latents_are_not_chosen_twice() -> None:
    chosen = coreset(torch.ones(6, 3), 6, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == list(range(6))


def test_few_vectors_are_all_in_the_bank() -> None:
    bank = MemoryBank(1, size=4)
    bank.fill(torch.arange(4.0)[:, None], torch.Generator())
    assert set(bank.vectors.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_a_bank_that_is_not_filled_is_far_from_every_latent() -> None:
    distances = projection_distance(torch.randn(1, 1, 5, 4), MemoryBank(4, size=3).vectors)
    assert distances.isfinite().all()
    assert distances.min() > 1e5
