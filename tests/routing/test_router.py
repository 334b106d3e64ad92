from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.literal import mahalanobis
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.router import ROUTERS, PrototypeRouter


def prototype_of(features: Tensor) -> TaskPrototype:
    prototype = TaskPrototype(features.shape[1])
    prototype.update(features)
    return prototype


def router_of(distance: str, groups: list[Tensor]) -> PrototypeRouter:
    router = PrototypeRouter(distance)
    for task, features in enumerate(groups):
        router.add_prototype(task, prototype_of(features))
    return router


def groups_of(count: int = 3, images: int = 40, dim: int = 5) -> list[Tensor]:
    return [torch.randn(images, dim) + 4 * torch.randn(dim) for _ in range(count)]


def test_task_distance_equals_the_literal_mahalanobis() -> None:
    groups = groups_of()
    router = router_of("mahalanobis", groups)
    features = torch.randn(7, 5)
    expected = torch.stack([mahalanobis(features.double(), g.double()) for g in groups], 1).float()
    torch.testing.assert_close(router.distances(features), expected, rtol=1e-4, atol=1e-4)


def test_pooled_distance_equals_that_of_the_within_task_covariance() -> None:
    groups = groups_of()
    router = router_of("pooled", groups)
    centred = torch.cat([g - g.mean(0) for g in groups]).double()
    covariance = centred.T @ centred / (len(centred) - 3)
    covariance = (1 - 1e-4) * covariance + 1e-4 * covariance.trace() / 5 * torch.eye(5)
    features = torch.randn(7, 5)
    for task, group in enumerate(groups):
        delta = (features - group.mean(0)).double()
        squared = (delta @ torch.linalg.inv(covariance) * delta).sum(1)
        torch.testing.assert_close(
            router.distances(features)[:, task], squared.sqrt().float(), rtol=1e-4, atol=1e-4
        )


NO_COVARIANCE = {
    "NaN": lambda scatter: scatter.fill_(torch.nan),
    "infinite": lambda scatter: scatter.fill_(torch.inf),
    "indefinite": lambda scatter: scatter.sub_(100 * torch.eye(5)),
}


@pytest.mark.parametrize("damage", NO_COVARIANCE.values(), ids=NO_COVARIANCE)
def test_scatter_that_is_no_covariance_is_refused_by_its_task(
    damage: Callable[[Tensor], Tensor],
) -> None:
    router = router_of("shrunk", groups_of())
    damage(router.prototypes["1"].scatter)
    router.forget()
    with pytest.raises(CheckpointError, match="the prototype of task 1 is damaged"):
        router.distances_to(1, torch.randn(2, 5))
    assert router.distances_to(0, torch.randn(2, 5)).isfinite().all()


@pytest.mark.parametrize("distance", ["mahalanobis", "pooled", "shrunk"])
def test_no_distance_is_taken_by_a_scatter_that_is_not_finite(distance: str) -> None:
    router = router_of(distance, groups_of())
    router.prototypes["1"].scatter.fill_(torch.nan)
    router.forget()
    with pytest.raises(CheckpointError, match=r"one of the tasks \[0, 1, 2\] is damaged"):
        router.distances(torch.randn(2, 5))


@pytest.mark.parametrize("distance", ["mahalanobis", "pooled", "shrunk", "euclidean"])
@pytest.mark.parametrize("images", [1, 2, 40])
def test_scatter_without_an_inverse_gives_finite_distances(distance: str, images: int) -> None:
    """One image, two, or channels that never vary: the covariance is singular."""
    groups = [group * torch.tensor([1.0, 1, 1, 0, 0]) for group in groups_of(images=images)]
    router = router_of(distance, groups)
    assert router.distances(torch.randn(7, 5)).isfinite().all()
    if distance == "shrunk":
        assert router.distances_to(1, torch.randn(7, 5)).isfinite().all()


def test_distances_asked_between_two_tasks_do_not_hold_on_to_the_first() -> None:
    groups, features = groups_of(), torch.randn(7, 5)
    grown = PrototypeRouter("pooled")
    for task, group in enumerate(groups):
        prototype = TaskPrototype(5)
        prototype.update(group)
        grown.add_prototype(task, prototype)
        grown.distances(features)
    assert torch.equal(grown.distances(features), router_of("pooled", groups).distances(features))


def test_euclidean_distance_is_that_of_the_means() -> None:
    groups = groups_of()
    features = torch.randn(7, 5)
    means = torch.stack([g.mean(0) for g in groups])
    torch.testing.assert_close(
        router_of("euclidean", groups).distances(features), torch.cdist(features, means)
    )


@pytest.mark.parametrize("distance", ["pooled", "mahalanobis", "euclidean"])
def test_images_go_to_their_own_task(distance: str) -> None:
    groups = [torch.randn(30, 4) + 20 * i for i in range(3)]
    router = router_of(distance, groups)
    features = torch.cat([g[:5] for g in groups])
    assert router.route(features).tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_pooled_prototypes_hold_with_fewer_images_than_channels() -> None:
    common = torch.randn(64, 64)
    groups = [torch.randn(10, 64) @ common + shift for shift in (0.0, 30.0)]
    unseen = torch.randn(200, 64) @ common
    pooled = (router_of("pooled", groups).route(unseen) == 0).float().mean()
    assert pooled > 0.9


@pytest.mark.parametrize("name", list(ROUTERS))
def test_no_image_goes_to_a_hidden_task_and_others_are_routed_as_without_it(name: str) -> None:
    groups = groups_of()
    router, without = (ROUTERS[name](None) for _ in range(2))
    for task, features in enumerate(groups):
        router.add_prototype(task, prototype_of(features))
        if task != 1:
            without.add_prototype(task, prototype_of(features))
    features = torch.cat(groups)
    assert set(router.route(features).tolist()) == {0, 1, 2}
    router.hide([1])
    assert router.tasks == [0, 2]
    assert torch.equal(router.distances(features), without.distances(features))
    assert torch.equal(router.route(features), without.route(features))
    router.hide([0, 1, 2])
    with pytest.raises(CheckpointError, match="no prototype yet"):
        router.route(features)


def test_single_product_takes_all() -> None:
    router = router_of("pooled", groups_of(1))
    assert not router.route(torch.randn(9, 5)).any()


def test_single_image_a_product_is_enough_to_route() -> None:
    router = router_of("pooled", [torch.zeros(1, 3), torch.ones(1, 3)])
    assert router.route(torch.tensor([[0.9, 1.1, 1.0]])).tolist() == [1]


def test_loading_a_state_forgets_what_was_prepared() -> None:
    router, other = (router_of("pooled", groups_of(2)) for _ in range(2))
    features = torch.randn(4, 5)
    router.distances(features)
    router.load_state_dict(other.state_dict())
    assert torch.equal(router.distances(features), other.distances(features))


def test_a_router_without_prototypes_says_so() -> None:
    with pytest.raises(CheckpointError, match="no prototype yet"):
        PrototypeRouter().route(torch.zeros(1, 2))


def test_unknown_distance_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="distance .*'euclidean', 'mahalanobis', 'pooled'"):
        PrototypeRouter("cosine")


def test_singular_covariances_of_large_features_give_distances() -> None:
    features = 10 * torch.randn(2, 20, 384)
    found = router_of("mahalanobis", list(features)).distances(features[0])
    assert found.isfinite().all()
    assert (found[:, 0] < found[:, 1]).all()


def test_distance_to_one_task_is_that_among_all() -> None:
    groups = [torch.randn(30, 5) + shift for shift in (0, 4, 8)]
    router = router_of("shrunk", groups)
    alone = torch.stack([router.distances_to(task, groups[1]) for task in range(3)], 1)
    torch.testing.assert_close(alone, router.distances(groups[1]))


def test_distances_to_the_nearest_of_many_are_exact_however_far_the_others() -> None:
    # two neighbours a long way from the rest, whose centre lies elsewhere
    groups = [torch.randn(30, 6) + 1e4 * (i // 2) + 0.01 * i for i in range(40)]
    router = router_of("euclidean", groups)
    features = torch.cat([group[:2] for group in groups])
    means = torch.stack([prototype_of(group).mean for group in groups])
    expected = torch.cdist(features.double(), means.double())
    found = router.distances(features)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0.0)
    near = expected.argsort(1)[:, :2]
    torch.testing.assert_close(
        found.gather(1, near).double(), expected.gather(1, near), rtol=1e-6, atol=0.0
    )
    assert torch.equal(found.argmin(1), expected.argmin(1))


@pytest.mark.parametrize("name", ["mahalanobis", "euclidean"])
@pytest.mark.parametrize("regions", [None, 4])
def test_routers_by_name_choose_the_nearest_prototype(name: str, regions: int | None) -> None:
    router = ROUTERS[name](regions)
    assert type(router) is PrototypeRouter
    assert router.distance == name
