"""Search of memory banks: distances of latents to their soft projections on a bank.

The nearest vectors are found exactly, by the distances to all: the time is that of one matrix
product (docs/speed.md). Memory is spared: a bank is searched in the bytes that it is stored in, and
a part of it is widened at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from moleflow_pl.scoring.functional import lower_median

NEIGHBOURS = 5  # vectors of a bank that a latent is projected on
CPU_ROWS, CPU_VECTORS = 512, 1024  # compared at once on a CPU: the distances stay in its caches
GPU_ROWS = 8192
TIED = 1e-6  # difference of two squared distances, relative to squared lengths, that is rounding


class BankVectors:
    """The vectors that latents are compared with, in the bytes that a bank stores.

    Args:
        values: The vectors (M, C), or integers to be multiplied.
        factors: What the values are multiplied by, (M, 1).
        derived: Further channels of the vectors (M, E).

    Attributes:
        squares: Squared lengths of the vectors (M,).

    Example:
        >>> bank = BankVectors(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[0.5], [1.0]]))
        >>> bank[torch.tensor([1, 0])]
        tensor([[3.0000, 4.0000],
                [0.5000, 1.0000]])
    """

    def __init__(
        self, values: Tensor, factors: Tensor | None = None, derived: Tensor | None = None
    ) -> None:
        self.values, self.factors, self.derived = values, factors, derived
        parts = [self[start : start + CPU_VECTORS] for start in range(0, len(self), CPU_VECTORS)]
        self.squares = torch.cat([part.square().sum(1) for part in parts])

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, places: slice | Tensor) -> Tensor:
        """Some of the vectors (..., C + E), in float32."""
        vectors = self.values[places]
        vectors = (vectors if self.factors is None else vectors * self.factors[places]).float()
        if self.derived is None:
            return vectors
        return torch.cat((vectors, self.derived[places].to(vectors)), -1)

    def only(self, places: Tensor) -> BankVectors:
        """A bank of some of the vectors.

        Args:
            places: Their indices, or which they are (M,), bool.
        """
        factors = None if self.factors is None else self.factors[places]
        derived = None if self.derived is None else self.derived[places]
        return BankVectors(self.values[places], factors, derived)


def projection_distance(
    latents: Tensor, bank: BankVectors, counted: Tensor | None = None
) -> Tensor:
    """Distances (B, h, w) of latents (B, h, w, C) to their soft projections on a bank.

    An image's distances do not depend on the other images of its batch.

    Args:
        latents: Of the patches.
        bank: The vectors.
        counted: Row-major indices of the patches that count; by default all.

    Example:
        >>> bank = BankVectors(torch.zeros(1, 2))
        >>> projection_distance(torch.tensor([[[[3.0, 4.0]]]]), bank)
        tensor([[[5.]]])
    """
    with torch.autocast(latents.device.type, enabled=False):
        places = nearest_places(latents.flatten(0, -2), bank)
    return distances_to_places(latents, bank, places, counted)


def projection_range(
    latents: Tensor, bank: BankVectors, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The least and the largest of the distances (B, h, w) that rounding chooses between.

    Where the last vector that a latent is projected on and the next are equally far, the last bit
    of a feature decides which of them counts, and the distance jumps. Elsewhere, both are equal.

    Args:
        latents: Of the patches (B, h, w, C).
        bank: The vectors.
        counted: As in `projection_distance`.

    Example:
        >>> bank = BankVectors(torch.tensor([[0.1], [0.2], [0.3], [0.4], [0.5], [-0.5]]))
        >>> projection_range(torch.tensor([[[[0.0], [0.1]]]]), bank)
        (tensor([[[0.1489, 0.0839]]]), tensor([[[0.1504, 0.0839]]]))
    """
    rows = latents.flatten(0, -2)
    with torch.autocast(latents.device.type, enabled=False):
        places = nearest_places(rows, bank, NEIGHBOURS + 1)
    chosen = places[:, :NEIGHBOURS]
    swapped = torch.cat((chosen[:, :-1], places[:, -1:]), 1)
    last, after = (bank[places[:, i]].double() for i in (chosen.shape[1] - 1, -1))
    gap = (rows - after).square().sum(1) - (rows - last).square().sum(1)
    is_tied = gap <= TIED * (rows.double().square().sum(1) + last.square().sum(1))
    ends = [
        distances_to_places(latents, bank, of, counted)
        for of in (chosen, torch.where(is_tied[:, None], swapped, chosen))
    ]
    return torch.minimum(*ends), torch.maximum(*ends)


def distances_to_places(
    latents: Tensor, bank: BankVectors, places: Tensor, counted: Tensor | None
) -> Tensor:
    """Distances (B, h, w) of latents (B, h, w, C) to their projections on given vectors.

    Args:
        latents: Of the patches.
        bank: The vectors.
        places: Indices of the vectors of each latent (B h w, k).
        counted: As in `projection_distance`.
    """
    images = latents.flatten(1, -2)
    distances, places = latents.new_empty(images.shape[:2]), places.unflatten(0, images.shape[:2])
    temperature = partial(temperature_of, counted=counted)
    with torch.autocast(latents.device.type, enabled=False):
        for i, rows in enumerate(images):  # the vectors nearest to all would fill the memory
            distances[i] = soft_projection_distance(rows[None], bank[places[i]][None], temperature)
    return distances.reshape(latents.shape[:-1])


def nearest_places(rows: Tensor, bank: BankVectors, count: int = NEIGHBOURS) -> Tensor:
    """Indices (N, k) of the vectors of a bank nearest to latents (N, C), nearest first."""
    on_cpu, count = rows.device.type == "cpu", min(count, len(bank))
    step = CPU_VECTORS if on_cpu else len(bank)
    parts = rows.split(CPU_ROWS if on_cpu else GPU_ROWS)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in parts]
    for start in range(0, len(bank), step):
        vectors, squares = bank[start : start + step], bank.squares[start : start + step]
        for best, part in zip(found, parts, strict=True):
            distances = torch.addmm(squares, part, vectors.T, alpha=-2)
            values, places = distances.topk(min(count, len(vectors)), largest=False, sorted=False)
            best.append((values, places + start))
    joined = [[torch.cat(parts, 1) for parts in zip(*best, strict=True)] for best in found]
    order = [values.topk(count, largest=False).indices for values, _ in joined]
    return torch.cat([places.gather(1, o) for (_, places), o in zip(joined, order, strict=True)])


def temperature_of(squared: Tensor, counted: Tensor | None = None) -> Tensor:
    """Median (B,) of the squared distances (B, n, k) of the patches that count."""
    return lower_median((squared if counted is None else squared[:, counted]).flatten(1))


def soft_projection_distance(
    rows: Tensor, nearest: Tensor, temperature_of: Callable[[Tensor], Tensor] = temperature_of
) -> Tensor:
    """Distances of latents to the weighted means of their nearest vectors.

    Weights are softmax(-d^2 / t), with t the median of all d^2 of an image's patches that count.
    The mean of several neighbours is less rough than a sparse bank is: the distance to the nearest
    vector alone also depends on where the coreset happens to have one.

    Shape: rows (B, n, C), nearest (B, n, k, C) -> (B, n).

    References: ProCon, arXiv:2607.04894, for the projection.

    Example:
        >>> nearest = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> soft_projection_distance(torch.tensor([[[0.0, 3.0]]]), nearest[None, None])
        tensor([[3.]])
    """
    difference = nearest - rows[:, :, None]
    squared = torch.linalg.vector_norm(difference, dim=-1).square()
    temperature = temperature_of(squared)[:, None, None]
    # all latents of an image may be in the bank
    temperature = temperature.clamp_min(torch.finfo(squared.dtype).tiny)
    # the excess gives the same weights, and never only infinite ones, whose softmax is NaN
    excess = squared - squared.amin(-1, keepdim=True)
    weights = torch.softmax(-excess / temperature, -1)
    return torch.linalg.vector_norm((weights[..., None, :] @ difference)[..., 0, :], dim=-1)
