import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.region_router import RegionRouter, choose_with_offset
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


def literal_choice(groups: list[Tensor], image: Tensor) -> int:
    """The rule of the docstring in numpy, step by step."""
    x, sets = image.double().numpy(), [g.double().numpy() for g in groups]
    means = [g.mean(0) for g in sets]
    own = [np.mean([np.cov(g[:, r].T) for r in range(REGIONS)], 0) for g in sets]
    weights = np.array([(len(g) - 1) * REGIONS for g in sets], float)
    pooled = np.einsum("t,tde->de", weights / weights.sum(), np.array(own))
    level = np.trace(pooled) / DIM
    precision = np.linalg.inv((1 - 1e-4) * pooled + 1e-4 * level * np.eye(DIM))
    squared = [np.einsum("rd,de,re->", x - m, precision, x - m) for m in means]
    a, b = np.argsort(squared)[:2]
    direction = (means[a] - means[b]) @ precision
    # along the line: the centres, the image, and how far images of each lie about
    centre_a, centre_b, at = ((direction * one).sum() for one in (means[a], means[b], x))

    def wide(t: int) -> float:
        rooms = np.cov(means[t].T, bias=True)
        both = own[t] + rooms
        return float(np.sqrt(np.einsum("rd,de,re->", direction, both, direction)))

    return int(a if (centre_a - at) / wide(a) <= (at - centre_b) / wide(b) else b)


def test_choice_equals_the_literal_rule() -> None:
    groups = three_groups()
    router = router_of(groups)
    centres = torch.stack([g.mean(0) for g in groups])
    mixed = torch.rand(200, 3).softmax(1)
    images = torch.einsum("nt,trd->nrd", mixed, centres) + torch.randn(200, REGIONS, DIM)
    found = router.route(images).tolist()
    assert found == [literal_choice(groups, image) for image in images]
    assert set(found) == {0, 1, 2}
    # the boundaries are not half-way
    assert found != router.distances(images).argmin(1).tolist()


def test_distance_is_the_root_of_the_mean_square_over_regions() -> None:
    groups = three_groups()
    router = router_of(groups)
    pooled = sum(router.prototypes[str(t)].covariance for t in range(3)) / 3
    level = pooled.trace() / DIM
    precision = torch.linalg.inv((1 - 1e-4) * pooled + 1e-4 * level * torch.eye(DIM))
    image = torch.randn(REGIONS, DIM).double()
    for task, group in enumerate(groups):
        delta = image - group.double().mean(0)
        expected = ((delta @ precision) * delta).sum(1).mean().sqrt()
        found = router.distances(image[None].float())[0, task]
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_routing_errors_are_as_likely_for_both_of_two_unequal_products() -> None:
    # without variance between regions the rule is the minimax of two Gaussians
    centre = torch.zeros(REGIONS, DIM)
    narrow, wide = images_of(centre, 0.5, 4000), images_of(centre + 1.0, 1.5, 4000)
    router = router_of([narrow, wide])
    lost = [
        (router.route(group) != task).double().mean() for task, group in enumerate((narrow, wide))
    ]
    expected = norm.sf(np.sqrt(REGIONS * DIM) / (0.5 + 1.5))
    assert [share.item() for share in lost] == pytest.approx([expected] * 2, abs=0.01)
    halfway = router.distances(wide).argmin(1)
    assert (halfway != 1).double().mean() > 1.5 * lost[1]


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


def test_table_of_boundaries_gives_the_routers_choice() -> None:
    router = router_of(three_groups())
    table = router.boundaries(range(3))
    assert torch.equal(table, -table.T)
    assert table[0, 1] != 0
    assert torch.equal(router.boundaries([2, 0]), table[[2, 0]][:, [2, 0]])
    images = torch.randn(100, REGIONS, DIM)
    distances = router.distances(images)
    chosen = choose_with_offset(distances, lambda first, second: table[first, second])
    assert torch.equal(chosen, router.choose(distances))


def test_boundaries_follow_the_prototypes() -> None:
    groups = three_groups()
    router, other = router_of(groups), router_of(groups[::-1])
    before = router.boundaries(range(3))
    router.load_state_dict(other.state_dict())
    assert torch.equal(router.boundaries(range(3)), other.boundaries(range(3)))
    assert not torch.equal(router.boundaries(range(3)), before)


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
def test_region_boundaries_are_used_where_the_image_features_are_of_regions(name: str) -> None:
    assert isinstance(ROUTERS[name](REGIONS), RegionRouter)
    whole = ROUTERS[name](None)
    assert type(whole) is PrototypeRouter
    assert whole.distance == "pooled"
