import numpy as np
import pytest
import torch
from torch import Tensor

from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.region_router import CLOSE, RegionRouter
from moleflow_pl.routing.router import ROUTERS, PrototypeRouter

REGIONS, DIM = 4, 3


def images_of(centre: Tensor, width: float, count: int = 60) -> Tensor:
    return centre + width * torch.randn(count, REGIONS, DIM)


def router_of(groups: list[Tensor], router: PrototypeRouter | None = None) -> PrototypeRouter:
    router = RegionRouter() if router is None else router
    for task, features in enumerate(groups):
        prototype = TaskPrototype(features.shape[-1], features.shape[1])
        prototype.update(features)
        router.add_prototype(task, prototype)
    return router


def three_groups() -> list[Tensor]:
    return [images_of(2 * torch.randn(REGIONS, DIM), width) for width in (0.5, 1.0, 2.0)]


def literal_precision(groups: list[np.ndarray]) -> np.ndarray:
    """Inverse of the covariance within groups and regions, in numpy."""
    own = [np.mean([np.cov(g[:, r].T) for r in range(REGIONS)], 0) for g in groups]
    weights = np.array([(len(g) - 1) * REGIONS for g in groups], float)
    pooled = np.einsum("t,tde->de", weights / weights.sum(), np.array(own))
    return np.linalg.inv((1 - 1e-4) * pooled + 1e-4 * np.trace(pooled) / DIM * np.eye(DIM))


def literal_squares(image: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return np.array([(x - m) @ precision @ (x - m) for x, m in zip(image, mean, strict=True)])


def literal_total(image: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> float:
    return float(np.mean(DIM * np.log(1 + literal_squares(image, mean, precision) / DIM)))


def literal_choice(groups: list[Tensor], image: Tensor) -> int:
    """The rule of the docstring in numpy, step by step."""
    x, sets = image.double().numpy(), [g.double().numpy() for g in groups]
    means, shared = [g.mean(0) for g in sets], literal_precision(sets)
    a, b = np.argsort([literal_total(x, mean, shared) for mean in means])[:2]
    own = literal_precision([sets[a], sets[b]])
    if literal_squares(means[a], means[b], own).mean() / DIM >= CLOSE:
        return int(a)
    return int(b if literal_total(x, means[b], own) < literal_total(x, means[a], own) else a)


def test_choice_equals_the_literal_rule() -> None:
    # the last group is far from the others and has another covariance
    wide = torch.randn(60, REGIONS, DIM) * torch.tensor([9.0, 0.1, 3.0]) + 30
    groups = [*three_groups(), wide]
    router = router_of(groups)
    centres = torch.stack([g.mean(0) for g in groups[:3]])
    mixed = torch.rand(200, 3).softmax(1)
    images = torch.einsum("nt,trd->nrd", mixed, centres) + torch.randn(200, REGIONS, DIM)
    images[::5, 0] += 50
    found = router.route(images).tolist()
    assert found == [literal_choice(groups, image) for image in images]
    assert set(found) == {0, 1, 2}
    assert found != router.distances(images).argmin(1).tolist()


@pytest.mark.parametrize("others", [0, 7, 97])
def test_choice_between_two_close_products_does_not_depend_on_other_products(others: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    centre = draw(REGIONS, 8)
    shift = 0.4 * draw(REGIONS, 8)
    twins = [centre + sign * shift + draw(80, REGIONS, 8) for sign in (-1, 1)]
    images = centre + draw(300, REGIONS, 8)
    expected = router_of(twins).route(images)
    assert 0 < expected.double().mean() < 1
    # each of the others is far away and varies along axes of its own
    spreads = (2 * draw(others, 8, 8)).unbind()
    rest = [10 * draw(REGIONS, 8) + draw(40, REGIONS, 8) @ spread for spread in spreads]
    assert torch.equal(router_of([*twins, *rest]).route(images), expected)


def test_distance_is_the_root_of_the_mean_over_regions_of_bounded_squares() -> None:
    groups = three_groups()
    router = router_of(groups)
    sets = [g.double().numpy() for g in groups]
    precision = literal_precision(sets)
    image = torch.randn(REGIONS, DIM)
    image[0] += 1000
    for task, group in enumerate(sets):
        expected = np.sqrt(literal_total(image.double().numpy(), group.mean(0), precision))
        found = router.distances(image[None])[0, task]
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_distances_to_the_nearest_of_many_are_exact_and_those_to_the_others_close() -> None:
    groups = [torch.randn(REGIONS, DIM) * 100 + torch.randn(9, REGIONS, DIM) for _ in range(50)]
    router, image = router_of(groups), groups[7][:1]
    sets = [g.double().numpy() for g in groups]
    precision = literal_precision(sets)
    expected = [
        np.sqrt(literal_total(image[0].double().numpy(), g.mean(0), precision)) for g in sets
    ]
    found = router.distances(image)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[7].item() == pytest.approx(expected[7], rel=1e-6)


def test_a_destroyed_region_cannot_outweigh_the_others() -> None:
    twins = [images_of(torch.full((REGIONS, DIM), shift), 1.0) for shift in (0.0, 1.0)]
    router = router_of(twins)
    image = torch.zeros(1, REGIONS, DIM)
    image[0, 0] = 40.0  # looks more like the other product, in that region alone
    assert router.route(image).item() == 0
    assert PrototypeRouter.distances(router, image).argmin().item() == 1


def test_a_defect_like_the_twin_in_another_place_does_not_move_an_image() -> None:
    # the twin is darker in one corner; the defect is as dark, elsewhere and in fewer images
    good = torch.randn(16, DIM) + 0.1 * torch.randn(50, 16, DIM)
    twin = good + 0.1 * torch.randn(50, 16, DIM)
    twin[:, 0] += 1.0
    defective = good.clone()
    defective[:, 5] += 1.0
    assert not router_of([good, twin]).route(defective).any()
    whole = PrototypeRouter("pooled")
    for task, group in enumerate((good, twin)):
        prototype = TaskPrototype(DIM)
        prototype.update(group.mean(1))
        whole.add_prototype(task, prototype)
    assert whole.route(defective.mean(1)).double().mean() > 0.9


def test_close_pairs_are_given_by_their_places_and_follow_the_prototypes() -> None:
    far = images_of(torch.full((REGIONS, DIM), 100.0), 1.0)
    near = [images_of(torch.full((REGIONS, DIM), at), 1.0) for at in (0.0, 1.0)]
    groups = [near[0], far, near[1]]
    router = router_of(groups)
    pairs = router.close_pairs([2, 1, 0])
    assert list(pairs) == [(0, 2)]
    expected = literal_precision([groups[0].double().numpy(), groups[2].double().numpy()])
    root = pairs[0, 2]
    np.testing.assert_allclose(root @ root.T, expected, rtol=1e-5, atol=1e-8)
    router.load_state_dict(router_of([groups[0], groups[2], far]).state_dict())
    assert list(router.close_pairs(range(3))) == [(0, 1)]


def test_one_image_a_product_is_enough_to_route() -> None:
    router = router_of([torch.zeros(1, 2, 3), torch.ones(1, 2, 3)])
    assert router.route(torch.full((1, 2, 3), 0.9)).tolist() == [1]


def test_one_product_takes_all() -> None:
    router = router_of(three_groups()[:1])
    assert not router.route(torch.randn(5, REGIONS, DIM)).any()


@pytest.mark.parametrize("distance", ["pooled", "mahalanobis", "euclidean", "shrunk"])
def test_every_distance_knows_regions(distance: str) -> None:
    groups = [torch.randn(30, REGIONS, DIM) + 20 * i for i in range(3)]
    router = router_of(groups, PrototypeRouter(distance))
    features = torch.cat([g[:5] for g in groups])
    assert router.route(features).tolist() == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.parametrize("name", ["pooled", "none"])
def test_the_region_router_is_used_where_the_image_features_are_of_regions(name: str) -> None:
    assert isinstance(ROUTERS[name](REGIONS), RegionRouter)
    whole = ROUTERS[name](None)
    assert type(whole) is PrototypeRouter
    assert whole.distance == "pooled"
