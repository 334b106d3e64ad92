import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from moleflow_pl.scoring.memory_bank import ROWS, MemoryBank, coreset, nearest_distance


def test_distance_is_that_to_the_nearest_latent_in_the_bank() -> None:
    latents = torch.randn(50, 8)
    bank = MemoryBank(8, size=20)
    bank.fill(latents, torch.Generator().manual_seed(0))
    queries = torch.randn(2, ROWS // 50, 50, 8)  # more rows than go at once
    search = NearestNeighbors(n_neighbors=1).fit(bank.latents.double().numpy())
    nearest, _ = search.kneighbors(queries.reshape(-1, 8).double().numpy())
    found = nearest_distance(queries, bank.latents)
    assert found.shape == queries.shape[:-1]
    expected = torch.from_numpy(nearest[:, 0]).float().reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [8, 200])
def test_a_coreset_has_one_of_each_group(channels: int) -> None:
    # as many groups as rows: the optimal choice has one of each, and so has the greedy one
    centres = 20 * torch.randn(12, channels)
    rows = (centres[:, None] + 0.1 * torch.randn(12, 40, channels)).flatten(0, 1)
    chosen = coreset(rows, 12, torch.Generator().manual_seed(0))
    assert sorted((chosen // 40).tolist()) == list(range(12))


def test_coreset_equals_the_literal_farthest_points() -> None:
    rows = torch.randn(60, 8)
    chosen = coreset(rows, 9, torch.Generator().manual_seed(0)).tolist()
    apart = torch.cdist(rows.double(), rows.double())
    for i in range(1, 9):
        assert chosen[i] == apart[:, chosen[:i]].amin(1).argmax()


def test_a_latent_beyond_half_precision_leaves_the_others_their_distances() -> None:
    bank = MemoryBank(2, size=2)
    bank.fill(torch.tensor([[0.0, 0.0], [1e6, 0.0]]), torch.Generator())
    assert nearest_distance(torch.tensor([[3.0, 4.0]]), bank.latents).item() == 5.0


def test_bank_holds_no_latent_twice_and_the_rare_ones() -> None:
    latents = torch.cat([torch.randn(500, 100), torch.randn(3, 100) + 30])
    for seed in range(5):
        bank = MemoryBank(100, size=10)
        bank.fill(latents, torch.Generator().manual_seed(seed))
        chosen = torch.cdist(bank.latents.float(), latents).argmin(1).tolist()
        assert len(set(chosen)) == 10
        assert any(index >= 500 for index in chosen)


def test_equal_latents_are_not_chosen_twice() -> None:
    chosen = coreset(torch.ones(6, 3), 6, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == list(range(6))


def test_few_latents_are_all_in_the_bank() -> None:
    bank = MemoryBank(1, size=10)
    bank.fill(torch.arange(4.0)[:, None], torch.Generator())
    assert set(bank.latents.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_a_bank_that_is_not_filled_is_far_from_every_latent() -> None:
    distances = nearest_distance(torch.randn(5, 4), MemoryBank(4, size=3).latents)
    assert distances.isfinite().all()
    assert distances.min() > 1e5
