"""Which product does an image show: prototypes of image features, and the nearest one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_pl._internal.tensor_cache import TensorCache
from moleflow_pl.routing.prototypes import PRECISIONS, Distance, TaskPrototype

NEAREST = 4  # tasks that an image may turn out to be like: distances to them are reckoned in full
SINGLE = 256  # roots of single tasks to keep: 1.2 MB each at 384 channels


@dataclass(frozen=True)
class PreparedPrototypes:
    """What distances to prototypes are reckoned with, on the CPU, in float64 unless said.

    Attributes:
        roots: Roots L of the precisions L L^T, (T or 1, D, D).
        means: Means about their centre, times the roots, (T, R, D).
        squares: Their squared lengths (T,).
        rough: The same means in float32, (T, R D).
        centre: Mean of all means (R, D).
    """

    roots: Tensor
    means: Tensor
    squares: Tensor
    rough: Tensor
    centre: Tensor


class PrototypeRouter(nn.Module):
    """Sends an image to the task whose prototype is nearest.

    Distance to task t: sqrt((x - mu_t)^T P_t (x - mu_t)), with P_t by `distance`; of regions, the
    root of the mean square.

    Args:
        distance: `mahalanobis`: each task's own covariance, as the method was published.
            `pooled`: one covariance within tasks, from all of them (streaming LDA).
            `euclidean`: none. `shrunk`: each task's own, drawn towards its mean variance.

    Shape: features (N, D), or (N, R, D) of regions -> task ids (N,).

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

    def __init__(self, distance: Distance = "mahalanobis") -> None:
        super().__init__()
        if distance not in PRECISIONS:
            raise ValueError(f"distance must be one of {sorted(PRECISIONS)}, got {distance!r}")
        self.distance = distance
        self.prototypes = nn.ModuleDict()
        self._prepared: PreparedPrototypes | None = None
        self._single = TensorCache(self._prepare_one, size=SINGLE)
        self.register_load_state_dict_post_hook(lambda *_: self.forget())

    @property
    def tasks(self) -> list[int]:
        """Tasks with a prototype, in order."""
        return sorted(int(key) for key in self.prototypes)

    def add_prototype(self, task: int, prototype: TaskPrototype) -> None:
        """Make `task` a place to send images to; replaces an earlier prototype of it."""
        self.prototypes[str(task)] = prototype
        self.forget()

    def forget(self) -> None:
        """Drop what was prepared from the prototypes: they have changed."""
        self._prepared = None

    def distances(self, features: Tensor) -> Tensor:
        """Distances (N, T) of features (N, D) or (N, R, D) to all prototypes, in order of `tasks`.

        Reckoned in float64, with a covariance that all share for the nearest few alone, returned
        in float32.

        Raises:
            RuntimeError: there is no prototype yet.
        """
        known = self.prepared()
        # float64 on the CPU: some devices lack it, and the numbers are few
        rows = features.detach().to("cpu", torch.float64)
        rows = rows.reshape(rows.shape[0], -1, rows.shape[-1]) - known.centre
        turned = (rows @ known.roots[:, None]).flatten(2)
        if len(known.roots) > 1:
            pairs = zip(turned, known.means.flatten(1), strict=True)  # all at once fill the memory
            squared = torch.stack([(own - place).square().sum(-1) for own, place in pairs], 1)
        else:
            squared = squared_distances(turned[0], known)
        distances = (squared / rows.shape[1]).sqrt()
        return distances.float().to(features.device)

    def distances_to(self, task: int, features: Tensor) -> Tensor:
        """Distances (...) of features (..., D) to the prototype of one task alone.

        Reckoned in float32 where the features are, for they may be many.
        """
        device = features.device
        mean: Any = self.prototypes[str(task)].mean
        with torch.autocast(device.type, enabled=False):
            turned = (features.float() - mean.to(device)) @ self.root(task).to(device)
        return torch.linalg.vector_norm(turned, dim=-1)

    def root(self, task: int) -> Tensor:
        """Root L of a task's own precision L L^T, (D, D), in float32."""
        prototype: Any = self.prototypes[str(task)]
        return self._single.get(task, [prototype.mean, prototype.scatter])

    def _prepare_one(self, task: int) -> Tensor:
        prototype: Any = self.prototypes[str(task)]
        root = torch.linalg.cholesky(PRECISIONS[self.distance]([prototype])[0])
        return root.to(prototype.mean.device, torch.float32)

    def route(self, features: Tensor) -> Tensor:
        """Task for features (N, D) or (N, R, D): ids (N,)."""
        return self.choose(self.distances(features))

    def choose(self, distances: Tensor) -> Tensor:
        """Task that an image's `distances` (N, T) speak for, the nearest: ids (N,)."""
        return torch.tensor(self.tasks, device=distances.device)[distances.argmin(1)]

    def columns(self, tasks: Tensor) -> Tensor:
        """Where tasks (N,) stand among `distances`: (N,)."""
        return torch.searchsorted(torch.tensor(self.tasks, device=tasks.device), tasks)

    def boundaries(self, columns: Sequence[int]) -> Tensor:
        """How much nearer, squared, another prototype than a task's own may be, of some (C, C)."""
        return torch.zeros(len(columns), len(columns))

    def prepared(self) -> PreparedPrototypes:
        """What distances are reckoned with.

        Raises:
            RuntimeError: there is no prototype yet.
        """
        if not self.prototypes:
            raise RuntimeError("the router has no prototype yet: fit a task first")
        if self._prepared is None:
            self._prepared = self._prepare()
        return self._prepared

    def _prepare(self) -> PreparedPrototypes:
        prototypes: list[Any] = [self.prototypes[str(task)] for task in self.tasks]
        means = torch.stack([p.mean.detach().to("cpu", torch.float64) for p in prototypes])
        # not by Cholesky: a task's own covariance of few images may have lost its last directions
        values, vectors = torch.linalg.eigh(PRECISIONS[self.distance](prototypes))
        roots = vectors * values.clamp_min(0).sqrt()[..., None, :]
        means = means.reshape(len(means), -1, means.shape[-1])
        centre = means.mean(0)
        turned = (means - centre) @ roots
        squares = turned.square().sum((1, 2))
        return PreparedPrototypes(roots, turned, squares, turned.flatten(1).float(), centre)


def squared_distances(rows: Tensor, known: PreparedPrototypes) -> Tensor:
    """Squared distances (N, T) of rows (N, R D), turned as the means were, to all of them.

    One turn for however many products; the square taken apart spares a difference for each. What
    remains is the time to read the means, so it is done in float32, and again in full for those
    that turn out to be near.
    """
    with torch.autocast("cpu", enabled=False):
        products = (rows.float() @ known.rough.T).double()
    squared = rows.square().sum(1, keepdim=True) + known.squares - 2 * products
    near = squared.topk(min(NEAREST, squared.shape[1]), largest=False).indices
    exact = (rows[:, None] - known.means.flatten(1)[near]).square().sum(-1)
    return squared.clamp_min(0).scatter(1, near, exact)
