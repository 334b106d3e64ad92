import torch
from sklearn.neighbors import NearestNeighbors

from moleflow_pl.bank import ROWS, LatentBank


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


def test_bank_keeps_a_random_part_without_repetition() -> None:
    latents = torch.arange(30.0)[:, None]
    bank = LatentBank(1, size=10)
    bank.fill(latents, torch.Generator().manual_seed(0))
    kept = bank.latents.flatten().tolist()
    assert len(set(kept)) == 10
    assert set(kept) <= set(range(30))
    bank.fill(latents, torch.Generator().manual_seed(1))
    assert bank.latents.flatten().tolist() != kept


def test_few_latents_are_all_kept() -> None:
    bank = LatentBank(1, size=10)
    bank.fill(torch.arange(4.0)[:, None], torch.Generator())
    assert set(bank.latents.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
