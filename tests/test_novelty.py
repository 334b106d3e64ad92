import numpy as np
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.inspection import NEAREST
from moleflow_pl.novelty import (
    PATCH_SHARE,
    PATCH_STEP,
    NoveltyStatistics,
    typical_direction,
)
from moleflow_pl.router import PrototypeRouter, TaskPrototype
from tests.conftest import TINY_MODEL


def product(seed: int, images: int = 60) -> torch.Tensor:
    """Features (B, 6, 6, 5) around a direction of the product's own."""
    generator = torch.Generator().manual_seed(seed)
    centre = 3 * torch.randn(5, generator=generator)
    return centre + torch.randn(images, 6, 6, 5, generator=generator)


def test_prototype_equals_numpys_from_all_images_at_once() -> None:
    features = product(0)
    statistics = NoveltyStatistics(5)
    for part in features.split(16):
        statistics.update(part)
    rows = features.numpy().reshape(60, 36, 5).astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    typical = np.sort(unit, axis=1)[:, 17]  # torch's median: the lower of the two in the middle
    patches = unit[:, ::PATCH_STEP].reshape(-1, 5)
    covariance = np.cov(typical.T) + PATCH_SHARE * np.cov(patches.T)
    made = statistics.prototype()
    np.testing.assert_allclose(made.mean.numpy(), typical.mean(0), atol=1e-6)
    np.testing.assert_allclose(made.covariance.numpy(), covariance, rtol=1e-4, atol=1e-7)


def test_shade_and_local_defects_are_not_novel_but_another_product_is() -> None:
    statistics = NoveltyStatistics(5)
    statistics.update(product(0))
    router = PrototypeRouter("shrunk")
    router.add_prototype(0, statistics.prototype())

    def distance(features: torch.Tensor) -> torch.Tensor:
        return router.distances(typical_direction(features))[:, 0]

    new = product(0, 90)[60:]
    damaged = new.clone()
    damaged[:, :2, :3] = 50 * torch.randn(5, generator=torch.Generator().manual_seed(1))
    usual = distance(new)
    torch.testing.assert_close(distance(0.3 * new), usual)
    assert distance(damaged).median() < 3 * usual.median()
    assert distance(product(7)).min() > 2 * usual.max()


def test_image_is_set_against_the_nearest_products_and_the_one_asked_for() -> None:
    module = MoLEFlow(**TINY_MODEL)
    for task in range(NEAREST + 3):
        module.router.add_prototype(task, prototype_of(task))
        module.novelty.add_prototype(task, prototype_of(task))
    features = torch.randn(5, 3, 3, 64)
    distances = module.router.distances(module.image_features(features))
    chosen = torch.tensor([0, 1, 2, 3, NEAREST + 2])
    found = module.novelty_among(features, distances, chosen)
    every = module.novelty.distances(typical_direction(features))
    for image, (near, one) in enumerate(zip(distances.argsort(1), chosen.tolist(), strict=True)):
        asked = {*near[:NEAREST].tolist(), one}
        for task in range(NEAREST + 3):
            wanted = every[image, task] if task in asked else torch.tensor(torch.inf)
            torch.testing.assert_close(found[image, task], wanted)


def prototype_of(task: int) -> TaskPrototype:
    prototype = TaskPrototype(64)
    generator = torch.Generator().manual_seed(task)
    prototype.update(torch.randn(9, 64, generator=generator) + task)
    return prototype
