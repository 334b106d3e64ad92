import torch
from sklearn.neighbors import NearestNeighbors

from moleflow_pl.bank import ROWS, LatentBank, coreset


def test_distance_is_that_to_the_nearest_kept_latent() -> None:
    latents = torch.randn(50, 8)
    bank = LatentBank(8, size=20)
    bank.fill(latents, torch.Generator().manual_seed(0))
    queries = torch.randn(2, ROWS // 50, 50, 8)  # more rows than go at once
    search = NearestNeighbors(n_neighbors=1).fit(bank.latents.double().numpy())
    nearest, _ = search.kneighbors(queries.reshape(-1, 8).double().numpy())
    found = bank.distance(queries)
    assert found.shape == queries.shape[:-1]
    expected = torch.from_numpy(nearest[:, 0]).float().reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_kept_latents_are_within_twice_the_best_distance_of_all_others() -> None:
    # groups of 40 around twelve centres: the best choice of twelve has one in each
    centres = 20 * torch.randn(12, 8)
    latents = (centres[:, None] + 0.1 * torch.randn(12, 40, 8)).flatten(0, 1)
    chosen = coreset(latents, 12, torch.Generator().manual_seed(0))
    assert sorted((chosen // 40).tolist()) == list(range(12))
    far = torch.cdist(latents, latents[chosen]).amin(1).max()
    within = torch.cdist(latents, centres).amin(1).max()
    assert far <= 2 * within


def test_bank_keeps_each_latent_once_and_the_rare_ones() -> None:
    latents = torch.cat([torch.randn(500, 100), torch.randn(3, 100) + 30])
    for seed in range(5):
        bank = LatentBank(100, size=10)
        bank.fill(latents, torch.Generator().manual_seed(seed))
        kept = torch.cdist(bank.latents.float(), latents).argmin(1).tolist()
        assert len(set(kept)) == 10
        assert any(one >= 500 for one in kept)


def test_equal_latents_are_not_chosen_twice() -> None:
    chosen = coreset(torch.ones(6, 3), 6, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == list(range(6))


def test_few_latents_are_all_kept() -> None:
    bank = LatentBank(1, size=10)
    bank.fill(torch.arange(4.0)[:, None], torch.Generator())
    assert set(bank.latents.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
