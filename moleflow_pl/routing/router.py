"""Which task an image belongs to: the one with the nearest prototype."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_pl._internal.registry import Registry
from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl.errors import CheckpointError
from moleflow_pl.routing.prototypes import PRECISIONS, TaskPrototype
from moleflow_pl.routing.triangles import fold, unfold

NEAREST = 4  # tasks whose distances from an image are computed in float64
CACHED_ROOTS = 320 * 2**20  # bytes of the roots that are cached: 1,100 of 384 channels


@dataclass(frozen=True)
class PreparedPrototypes:
    """Prototypes in the form that distances are computed from, on the CPU, in float64.

    Attributes:
        roots: Roots L of the precisions L L^T, (T or 1, D, D).
        means: Means relative to `centre`, times the roots, (T, R, D).
        means_float32: The same in float32, (R, T, D).
        squares: Their squared lengths (R, 1, T), in float32.
        centre: Mean of all means (R, D).
    """

    roots: Tensor
    means: Tensor
    means_float32: Tensor
    squares: Tensor
    centre: Tensor

    def squared_distances(self, rows: Tensor) -> Tensor:
        """Squared distances (R, N, T) of rows (N, R, D), times the shared root, to all means.

        |x - m|^2 = |x|^2 + |m|^2 - 2 x m in float32, because reading the means takes most of the
        time.
        """
        rows = rows.transpose(0, 1).float()
        means = self.means_float32.transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            squared = torch.baddbmm(self.squares, rows, means, alpha=-2)
        return squared.add_(rows.square().sum(2, keepdim=True)).clamp_min_(0)


def forget_after_loading(router: PrototypeRouter, keys: Any) -> None:
    """Forget what was computed before loading; a module-level function can be pickled."""
    router.forget()


class PrototypeRouter(nn.Module):
    """Chooses the task whose prototype is nearest to an image.

    Distance to task t: sqrt((x - mu_t)^T P_t (x - mu_t)), with P_t by `distance`; for regions, the
    root mean square over them.

    Args:
        distance: `mahalanobis`: the covariance of each task, as the method was published.
            `pooled`: one covariance within tasks, of all of them (streaming LDA).
            `euclidean`: no covariance. `shrunk`: the covariance of each task, shrunk towards its
            mean variance; for novelty distances, see `Inspector`.

    Shape: features (N, D), or (N, R, D) of regions -> task ids (N,).

    Raises:
        ConfigError: the distance is unknown.

    References: Lee et al. 2018, arXiv:1807.03888, section 2.1, for Mahalanobis prototypes.

    Example:
        >>> router = PrototypeRouter("euclidean")
        >>> for task, centre in enumerate((0.0, 10.0)):
        ...     prototype = TaskPrototype(2)
        ...     prototype.update(torch.full((1, 2), centre))
        ...     router.add_prototype(task, prototype)
        >>> router.route(torch.tensor([[9.0, 9.0], [1.0, 0.0]]))
        tensor([1, 0])
    """

    def __init__(self, distance: str = "mahalanobis") -> None:
        super().__init__()
        self.distance = distance
        self._precisions = PRECISIONS[distance]
        self.prototypes = nn.ModuleDict()
        self.hidden: frozenset[int] = frozenset()  # tasks to which no image goes
        self._tasks: list[int] = []  # sorted once: every image needs them several times
        self._task_ids: Tensor | None = None  # the same as a tensor
        self._prepared: PreparedPrototypes | None = None
        self._roots = TensorCache(self._compute_root)
        self.register_load_state_dict_post_hook(forget_after_loading)

    @property
    def tasks(self) -> list[int]:
        """Tasks to choose from, in order: those with a prototype that are not hidden."""
        if len(self._tasks) != len(self.prototypes) - len(self.hidden):
            self._tasks = sorted({int(key) for key in self.prototypes} - self.hidden)
        return list(self._tasks)

    @property
    def task_ids(self) -> Tensor:
        """The same as `tasks` (T,), on the CPU."""
        tasks = self.tasks
        if self._task_ids is None or len(self._task_ids) != len(tasks):
            self._task_ids = torch.tensor(tasks, dtype=torch.long)
        return self._task_ids

    def add_prototype(self, task: int, prototype: TaskPrototype) -> None:
        """Add the prototype of `task`, or replace it."""
        self.prototypes[str(task)] = prototype
        # a folded root takes half of the room of a scatter matrix
        self._roots.size = max(1, 2 * CACHED_ROOTS // prototype.scatter.nbytes)
        self.forget()

    def hide(self, tasks: Iterable[int]) -> None:
        """Hide tasks from the router, in place of those hidden before."""
        self.hidden = frozenset(tasks)
        self.forget()

    def forget(self) -> None:
        """Drop what was computed from the prototypes: they have changed."""
        self._prepared, self._tasks, self._task_ids = None, [], None

    def distances(self, features: Tensor) -> Tensor:
        """Distances (N, T) of features (N, D) or (N, R, D) to all prototypes, in order of `tasks`.

        Computed in float64, with a shared covariance only for the nearest few; returned in float32.

        Raises:
            CheckpointError: there is no prototype yet.
        """
        prepared = self.prepared()
        # on the CPU: some devices have no float64, and the arrays are small
        rows = features.detach().to("cpu", torch.float64)
        rows = rows.reshape(rows.shape[0], -1, rows.shape[-1]) - prepared.centre
        rotated = (rows @ prepared.roots[:, None]).flatten(2)
        if len(prepared.roots) > 1:
            # one at a time: all differences together need too much memory
            pairs = zip(rotated, prepared.means.flatten(1), strict=True)
            squared = torch.stack([(x - mean).square().sum(-1) for x, mean in pairs], 1)
        else:
            squared = squared_distances(rotated[0].reshape(rows.shape), prepared)
        distances = (squared / rows.shape[1]).sqrt()
        return distances.float().to(features.device)

    def distances_to(self, task: int, features: Tensor) -> Tensor:
        """Distances (...) of features (..., D) to the prototype of one task alone.

        Computed in float32 on the device of the features, which may be many.
        """
        device = features.device
        mean: Any = self.prototypes[str(task)].mean
        with torch.autocast(device.type, enabled=False):
            rotated = (features.float() - mean.to(device)) @ self.root(task).to(device)
        return torch.linalg.vector_norm(rotated, dim=-1)

    def root(self, task: int) -> Tensor:
        """Root L of the precision L L^T of one task, (D, D), lower triangular, in float32."""
        prototype: Any = self.prototypes[str(task)]
        folded = self._roots.get(task, [prototype.mean, prototype.scatter])
        return unfold(folded, len(prototype.scatter))

    def _compute_root(self, task: int) -> Tensor:
        prototype: Any = self.prototypes[str(task)]
        with of_whole_prototypes([task]):
            root = require_numbers(torch.linalg.cholesky(self._precisions([prototype])[0]))
        return fold(root.to(prototype.mean.device, torch.float32))

    def route(self, features: Tensor) -> Tensor:
        """Task ids (N,) of features (N, D) or (N, R, D)."""
        return self.choose(self.distances(features), features)

    def choose(self, distances: Tensor, features: Tensor) -> Tensor:
        """Task ids (N,) of features (N, D) or (N, R, D) by their `distances` (N, T): the nearest.

        A subclass may choose another. An exported graph takes the nearest, and decides between the
        `close_pairs` as this router does.
        """
        return self.task_ids.to(distances.device)[distances.argmin(1)]

    def columns(self, tasks: Tensor) -> Tensor:
        """Columns (N,) of tasks (N,) in `distances`."""
        return torch.searchsorted(self.task_ids.to(tasks.device), tasks)

    def close_pairs(self, columns: Sequence[int]) -> dict[tuple[int, int], Tensor]:
        """Pairs of indices in `columns` whose tasks another distance decides between.

        Returns:
            The root (D, D) of the precision of that distance, see `RegionRouter`.
        """
        return {}

    def prepared(self) -> PreparedPrototypes:
        """The prototypes in the form that distances are computed from.

        Raises:
            CheckpointError: there is no prototype yet.
        """
        if not self.tasks:
            raise CheckpointError("the router has no prototype yet: learn a task first")
        if self._prepared is None:
            self._prepared = self._prepare()
        return self._prepared

    def _prepare(self) -> PreparedPrototypes:
        prototypes: list[Any] = [self.prototypes[str(task)] for task in self.tasks]
        means = torch.stack([p.mean.detach().to("cpu", torch.float64) for p in prototypes])
        with of_whole_prototypes(self.tasks):
            roots = roots_of(self._precisions(prototypes))
        means = means.reshape(len(means), -1, means.shape[-1])
        centre = means.mean(0)
        rotated = (means - centre) @ roots
        squares = rotated.square().sum(2).T[:, None].float().contiguous()
        by_region = rotated.float().transpose(0, 1).contiguous()
        return PreparedPrototypes(roots, rotated, by_region, squares, centre)


def roots_of(precisions: Tensor) -> Tensor:
    """Roots L of precisions L L^T, (..., D, D).

    Raises:
        LinAlgError: a precision holds NaN or infinity.
    """
    # not by Cholesky: the covariance of few images may be singular
    values, vectors = torch.linalg.eigh(precisions)
    return require_numbers(vectors * values.clamp_min(0).sqrt()[..., None, :])


@contextmanager
def of_whole_prototypes(tasks: Sequence[int]) -> Iterator[None]:
    """Within the block, turn a singular scatter matrix into an error that names the tasks.

    Raises:
        CheckpointError: a scatter matrix has no inverse.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:
        whose = f"task {tasks[0]}" if len(tasks) == 1 else f"one of the tasks {list(tasks)}"
        raise CheckpointError(
            f"the prototype of {whose} is damaged, its scatter matrix is not a covariance: use an "
            "earlier checkpoint, or learn the product again"
        ) from error


def require_numbers(matrix: Tensor) -> Tensor:
    """Return a matrix unless it holds NaN or infinity.

    Raises:
        LinAlgError: the matrix holds NaN or infinity.
    """
    if not matrix.isfinite().all():
        raise torch.linalg.LinAlgError("NaN or infinity")
    return matrix


def squared_distances(rows: Tensor, prepared: PreparedPrototypes) -> Tensor:
    """Squared distances (N, T) of rows (N, R, D), times the shared root, to all means.

    In float32, then again in float64 for the nearest few.
    """
    squared = prepared.squared_distances(rows).sum(0).double()
    near = squared.topk(min(NEAREST, squared.shape[1]), largest=False).indices
    exact = (rows[:, None] - prepared.means[near]).square().sum((2, 3))
    return squared.scatter(1, near, exact)


# builds a router for image features of a number of regions, or of none
RouterBuilder = Callable[[int | None], PrototypeRouter]
ROUTERS: Registry[RouterBuilder] = Registry("router")


@ROUTERS.add("mahalanobis")
def mahalanobis_router(regions: int | None) -> PrototypeRouter:
    """The nearest prototype by the covariance of each task, as the method was published."""
    return PrototypeRouter("mahalanobis")


@ROUTERS.add("euclidean")
def euclidean_router(regions: int | None) -> PrototypeRouter:
    """The nearest prototype by the plain distance."""
    return PrototypeRouter("euclidean")
