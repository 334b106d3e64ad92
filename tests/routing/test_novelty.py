from collections.abc import Callable

import numpy as np
import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.model.inspector import NEAREST
from moleflow_pl.routing.novelty import (
    MAX_PATCHES,
    ORDINARY_QUANTILE,
    destroy_half,
    double_contrast,
    ordinary_quantile,
    sample_patches,
)
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.router import PrototypeRouter
from tests.helpers.models import TINY_MODEL

Build = Callable[..., MoLEFlow]


def product(seed: int, images: int = 60) -> torch.Tensor:
    """Features (B, 6, 6, 5) around a direction of the product's own."""
    generator = torch.Generator().manual_seed(seed)
    centre = 3 * torch.randn(5, generator=generator)
    return centre + torch.randn(images, 6, 6, 5, generator=generator)


def test_prototype_equals_numpys_from_all_patches_at_once() -> None:
    features = product(0)
    made = TaskPrototype(5)
    for part in features.split(16):
        made.update(sample_patches(part))
    rows = features.numpy().reshape(60, 36, 5).astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    patches = unit.reshape(-1, 5)  # so small a grid is looked at whole
    np.testing.assert_allclose(made.mean.numpy(), patches.mean(0), atol=1e-6)
    np.testing.assert_allclose(made.covariance.numpy(), np.cov(patches.T), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 8), (16, 16), (37, 37), (5, 60)])
def test_few_patches_are_sampled_from_all_over_the_image(grid: tuple[int, int]) -> None:
    height, width = grid
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows, columns, torch.full(grid, 50)], -1)[None].float()
    found = sample_patches(place)
    assert found.shape[1] <= MAX_PATCHES
    assert found.shape[1] >= min(height * width, MAX_PATCHES // 4)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, found.shape[1]))
    # the middle of the sampled patches is that of the image
    middle = (50 * found / found[..., 2:]).mean(1)[0]
    assert abs(middle[0] - (height - 1) / 2) <= 1
    assert abs(middle[1] - (width - 1) / 2) <= 3


@pytest.mark.parametrize("patches", [1, 2, 20, 36, 64])
def test_ordinary_quantile_equals_numpys(patches: int) -> None:
    distances = torch.rand(5, patches, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(distances.numpy(), ORDINARY_QUANTILE, axis=1)
    np.testing.assert_allclose(ordinary_quantile(distances).numpy(), expected, rtol=1e-5)


def test_shade_and_defects_are_not_novel_but_another_product_is() -> None:
    prototype = TaskPrototype(5)
    prototype.update(sample_patches(product(0)))
    router = PrototypeRouter("shrunk")
    router.add_prototype(0, prototype)

    def distance(features: torch.Tensor) -> torch.Tensor:
        return ordinary_quantile(router.distances_to(0, sample_patches(features)))

    new = product(0, 90)[60:]
    damaged = new.clone()
    damaged[:, :5] = 50 * torch.randn(5, generator=torch.Generator().manual_seed(1))
    usual = distance(new)
    torch.testing.assert_close(distance(0.3 * new), usual)
    assert distance(damaged).median() < 2 * usual.median()
    assert distance(product(7)).min() > 2 * usual.max()


def test_damage_leaves_the_other_half_and_the_mean() -> None:
    images = torch.randint(90, 160, (5, 3, 6, 8), dtype=torch.uint8)
    damaged = destroy_half(images)
    changed = (damaged != images).any(1)
    halves = [changed[0, :3], changed[1, :, :4], changed[2, 3:], changed[3, :, 4:], changed[4, :3]]
    assert all(half.float().mean() > 0.9 for half in halves)
    assert changed.sum() == sum(half.sum() for half in halves)
    torch.testing.assert_close(destroy_half(images), damaged)
    harsh = double_contrast(images)
    torch.testing.assert_close(
        harsh.float().mean((1, 2, 3)), images.float().mean((1, 2, 3)), atol=0.5, rtol=0
    )
    torch.testing.assert_close(
        harsh.float().std((1, 2, 3)), 2 * images.float().std((1, 2, 3)), rtol=0.02, atol=0
    )


def test_limit_comes_from_damaged_calibration_images(tiny_model: Build) -> None:
    torch.manual_seed(0)
    module = tiny_model()
    images = torch.randint(0, 256, (9, 3, 48, 48), dtype=torch.uint8)
    module.schedule.extend([["a"]], epochs=1)
    module.learner.begin_task(0)
    module.learner.finish_task(0, [{"image": images[:6]}])
    calibration = [{"image": images[6:8], "product": ["b", "c"]}, {"image": images[8:]}]
    module.learner.calibrate_task(0, calibration, 0.01, calibration)
    found = module.schedule.tasks[0].calibration
    assert found is not None

    def novelty(changed: torch.Tensor) -> torch.Tensor:
        return module.inspector.inspect(module.inspector.extractor(changed), 0).novelty_distance[
            :, 0
        ]

    with torch.no_grad():
        worst = [
            torch.maximum(novelty(double_contrast(part)), novelty(destroy_half(part)))
            for part in (images[6:8], images[8:])
        ]
    assert found.damaged_novelty_distances == pytest.approx(torch.cat(worst).tolist(), rel=1e-5)
    assert found.products == ["b", "c", "a"]
    means = images[6:].float().mean((1, 2, 3)) / 255
    assert found.brightness == pytest.approx(means.tolist())
    module.learner.calibrate_task(0, calibration, 0.01)
    assert module.schedule.tasks[0].calibration.damaged_novelty_distances == []


def test_image_is_set_against_the_nearest_products_and_the_one_asked_for() -> None:
    module = MoLEFlow(**TINY_MODEL, prototype="mean")
    for task in range(NEAREST + 3):
        module.inspector.router.add_prototype(task, prototype_of(task))
        module.inspector.novelty_router.add_prototype(task, prototype_of(task))
    features = torch.randn(5, 3, 3, 64)
    distances = module.inspector.router.distances(module.inspector.image_features(features))
    chosen = torch.tensor([0, 1, 2, 3, NEAREST + 2])
    found = module.inspector.novelty_distances(features, distances, chosen)
    patches = sample_patches(features)
    for image, (near, one) in enumerate(zip(distances.argsort(1), chosen.tolist(), strict=True)):
        asked = {*near[:NEAREST].tolist(), one}
        for task in range(NEAREST + 3):
            every = ordinary_quantile(module.inspector.novelty_router.distances_to(task, patches))
            wanted = every[image] if task in asked else torch.tensor(torch.inf)
            torch.testing.assert_close(found[image, task], wanted)


def prototype_of(task: int) -> TaskPrototype:
    prototype = TaskPrototype(64)
    generator = torch.Generator().manual_seed(task)
    prototype.update(torch.randn(9, 64, generator=generator) + task)
    return prototype
