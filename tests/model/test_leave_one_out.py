import pytest
import torch
from torch import Tensor

from moleflow_pl import MoLEFlow
from moleflow_pl.features.patch_sample import PatchSample
from moleflow_pl.features.region_of_interest import rows_of
from tests.helpers.models import TINY_MODEL

FEATURES = torch.randn(5, 4, 4, 64, generator=torch.Generator().manual_seed(0))
PATHS = [f"/x/{i}.png" for i in range(5)]


def batches_of(features: Tensor = FEATURES, size: int = 2) -> list[dict]:
    places = torch.arange(len(features)).split(size)
    return [{"features": features[p], "path": [PATHS[i] for i in p.tolist()]} for p in places]


def finished(score: object = ("depths", "groups"), features: Tensor = FEATURES) -> tuple:
    """A model that has learned a task, and which image each vector of its banks is from."""
    torch.manual_seed(0)
    model = MoLEFlow(**{**TINY_MODEL, "image_size": 64, "score": score, "bank_mb": 24 * 136e-6})
    model.schedule.extend([["a"]], epochs=1)
    model.learner.begin_task(0)
    batches = batches_of(features)
    model.learner.prepare_task(0, batches)
    return model.eval(), model.learner.finish_task(0, batches)


@pytest.mark.parametrize("part", ["all", "region"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_training_image_scores_as_one_whose_patches_are_in_no_bank(size: int, part: str) -> None:
    model, origins = finished()
    inside = torch.ones(4, 4, dtype=torch.bool)
    if part == "region":
        inside[0] = False
        model.inspector.interest.set(0, inside)
    found = model.learner.score_training(0, batches_of(size=size), origins)
    assert found.images == PATHS
    assert found.products == ["a"] * 5
    memory = dict(model.inspector.memory(0))
    for image in range(5):
        others = {name: [held != image for held in origins[name]] for name in memory}
        shapes = {
            name: [
                (int(kept.sum()), bank.values.shape[1])
                for kept, bank in zip(others[name], memory[name], strict=True)
            ]
            for name in memory
        }
        model.inspector.make_memory(0, shapes)
        for name, banks in model.inspector.memory(0).items():
            banks.scale.copy_(memory[name].scale)
            for bank, whole, kept in zip(banks, memory[name], others[name], strict=True):
                bank.values.copy_(whole.values[kept])
                bank.factors.copy_(whole.factors[kept])
        with torch.no_grad():
            patches = model.inspector.patch_scores(FEATURES[image][None], 0)
        region = model.inspector.interest.for_task(0)
        expected = model.inspector.image_score(rows_of(patches, region)).item()
        assert found.scores[image] == pytest.approx(expected, rel=1e-4)


def test_origins_are_the_images_of_the_vectors() -> None:
    model, origins = finished("bank")
    (bank,), (images,) = model.inspector.memory(0)["bank"], origins["bank"]
    with torch.no_grad():
        given = model.inspector.position(FEATURES)
        latent, _ = model.inspector.flow(given, 0)
    apart = torch.cdist(bank.vectors.float(), latent.flatten(0, 2))
    assert (apart.argmin(1) // 16).tolist() == images.tolist()


@pytest.mark.parametrize("score", ["norm", ["norm", "depths"]])
def test_part_without_a_bank_has_no_such_scores(score: object) -> None:
    model, origins = finished(score)
    assert model.learner.score_training(0, batches_of(), origins).scores == []


def test_single_image_cannot_be_left_out() -> None:
    model, origins = finished(features=FEATURES[:1])
    assert model.learner.score_training(0, batches_of(FEATURES[:1]), origins).scores == []


def test_maps_are_kept_of_the_images_that_score_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moleflow_pl.model.learner.MOST_SHOWN", 2)
    model, origins = finished()
    found = model.learner.score_training(0, batches_of(), origins)
    highest = sorted(zip(found.scores, found.images, strict=True))[-2:]
    kept = model.learner.highest_training[0]
    assert set(kept) == {path for _, path in highest}
    for score, path in highest:
        assert model.inspector.image_score(kept[path][None]).item() == pytest.approx(score)


def test_few_candidates_are_known_by_their_images_too() -> None:
    sample = PatchSample(64, 7, 0, "a", "candidates")
    sample.update(FEATURES)
    rows = FEATURES.flatten(0, 2)
    places = torch.cdist(sample.rows, rows).argmin(1)
    assert sample.sources.tolist() == (places // 16).tolist()
