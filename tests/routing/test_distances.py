import torch

from moleflow_pl.features.region_of_interest import Region
from moleflow_pl.routing.distances import measure_distances
from moleflow_pl.routing.image_features import PatchMean
from moleflow_pl.routing.prototypes import TaskPrototype
from moleflow_pl.routing.router import PrototypeRouter

UPPER = torch.tensor([[True, True], [False, False]])


def router_of(*centres: float) -> PrototypeRouter:
    router = PrototypeRouter("euclidean")
    for task, centre in enumerate(centres):
        prototype = TaskPrototype(1)
        prototype.update(torch.full((2, 1), centre))
        router.add_prototype(task, prototype)
    return router


def image(upper: float, lower: float) -> torch.Tensor:
    return torch.tensor([[upper] * 2, [lower] * 2])[None, ..., None]


def test_each_task_is_compared_by_its_own_patches() -> None:
    regions = [None, Region.of(UPPER)]
    seen, distances = measure_distances(router_of(5.0, 8.0), PatchMean(), image(8.0, 0.0), regions)
    torch.testing.assert_close(distances, torch.tensor([[1.0, 0.0]]))
    assert seen.tolist() == [[8.0]]
    seen, distances = measure_distances(router_of(5.0, 8.0), PatchMean(), image(2.0, 8.0), regions)
    torch.testing.assert_close(distances, torch.tensor([[0.0, 6.0]]))
    assert seen.tolist() == [[5.0]]


def test_columns_leave_the_other_tasks_out() -> None:
    seen, distances = measure_distances(
        router_of(5.0, 8.0), PatchMean(), image(8.0, 2.0), [Region.of(UPPER)], columns=[1]
    )
    torch.testing.assert_close(distances, torch.tensor([[0.0]]))
    assert seen.tolist() == [[8.0]]
