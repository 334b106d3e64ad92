import torch
from scipy.stats import chisquare

from moleflow_pl.features.patch_sample import PatchSample

IMAGES = torch.arange(7 * 12.0).reshape(7, 3, 4, 1)  # every patch is another number


def sampled(size: int, batch: int = 7, seed: int = 0) -> list[float]:
    sample = PatchSample(1, size, seed, "leather")
    for part in IMAGES.split(batch):
        sample.update(part)
    return sample.rows.flatten().tolist()


def test_sample_is_the_same_in_any_batches() -> None:
    assert sampled(20) == sampled(20, batch=1) == sampled(20, batch=3)
    assert len(set(sampled(20))) == 20


def test_sample_is_another_one_for_another_seed() -> None:
    assert sampled(20) != sampled(20, seed=1)


def test_few_patches_are_all_kept() -> None:
    assert sorted(sampled(1000, batch=2)) == IMAGES.flatten().tolist()


def test_every_patch_has_the_same_chance() -> None:
    kept = torch.tensor([sampled(5, batch=4, seed=seed) for seed in range(400)]).long()
    counts = torch.bincount(kept.flatten(), minlength=IMAGES.numel())
    assert chisquare(counts.numpy()).pvalue > 0.01


def test_every_patch_is_known_by_its_image() -> None:
    sample = PatchSample(1, 20, 0, "leather")
    for part in IMAGES.split(3):
        sample.update(part)
    assert sample.sources.tolist() == (sample.rows.flatten() // 12).int().tolist()
    merged = sample.gathered()
    assert merged.sources.tolist() == (merged.rows.flatten() // 12).int().tolist()


def test_rank_without_images_has_an_empty_sample() -> None:
    sample = PatchSample(1, 5, 0, "leather")
    sample.update(IMAGES[:0])
    assert sample.gathered().rows.shape == (0, 1)
