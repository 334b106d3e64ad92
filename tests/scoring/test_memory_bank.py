import pytest
import torch

from moleflow_pl.scoring import memory_bank
from moleflow_pl.scoring.bank_search import BankVectors, projection_distance
from moleflow_pl.scoring.memory_bank import MemoryBank, bank_size, coreset


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
    distance = projection_distance(torch.tensor([[[[3.0, 4.0]]]]), BankVectors(bank.vectors))
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
    bank = MemoryBank(4, size=3)
    found = BankVectors(bank.values, bank.factors)
    distances = projection_distance(torch.randn(1, 1, 5, 4), found)
    assert distances.isfinite().all()
    assert distances.min() > 1e5
