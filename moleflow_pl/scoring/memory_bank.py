"""Memory banks: coresets of a task's patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CANDIDATE_BYTES = 2**30  # largest size of the vectors that a coreset is chosen from
LEAST_SIZE = 2000  # vectors in a bank, if the product has as many patches and the limit allows them
SHARE = 32  # patches of a product for each vector in its bank, where they are many
LEVELS = 127  # levels of an 8-bit integer on each side of 0
SKETCH = 64  # random directions that distances are measured in while a coreset is chosen
POOL = 256  # farthest rows that may join a coreset before all distances are updated
ROWS = 4096  # rows whose distances are computed at once


class MemoryBank(nn.Module):
    """A coreset of vectors of a task's training patches, as 8-bit integers with a factor each.

    A coreset covers rare normal patches. Random subsampling misses them, and each then raises a
    false alarm. A bank stores features of the product, though no images; scores without a bank
    store none.

    Args:
        channels: Width of a vector, C.
        size: Vectors in the bank, M.

    Shape: buffers `values` (M, C), int8, and `factors` (M, 1), float32.

    References: Roth et al. 2022, PatchCore, arXiv:2106.08265, section 3.

    Example:
        >>> bank = MemoryBank(2, size=1)
        >>> bank.fill(torch.zeros(1, 2), torch.Generator())
        tensor([0])
        >>> bank.vectors
        tensor([[0., 0.]])
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        # an empty bank is far from every vector; infinity would make distances NaN
        self.register_buffer("values", torch.full((size, channels), LEVELS, dtype=torch.int8))
        self.register_buffer("factors", torch.full((size, 1), torch.finfo(torch.half).max / LEVELS))
        self.values: Tensor
        self.factors: Tensor

    @property
    def vectors(self) -> Tensor:
        """The vectors (M, C), in float32."""
        return self.values * self.factors

    def fill(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Store a coreset of vectors (N, C) of a task's training patches, N >= M.

        Returns:
            Indices (M,) of the chosen vectors.
        """
        order = coreset(vectors, len(self.values), generator)
        largest = torch.finfo(torch.half).max
        chosen = vectors[order.to(vectors.device)].float().clamp(-largest, largest)
        factors = (
            chosen.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.half).tiny) / LEVELS
        )
        self.factors.copy_(factors)
        self.values.copy_((chosen / factors).round())
        return order


def bank_size(patches: int, widths: Sequence[int], limit_mb: float) -> int:
    """Vectors in each of a task's memory banks, all of equal size.

    Args:
        patches: Patches of the task's training images.
        widths: Channels of each bank's vectors.
        limit_mb: Size of all banks together, at most.

    Example:
        >>> bank_size(64_000, [384], 1.0), bank_size(196_000, [384], 4.0), bank_size(99, [384], 4.0)
        (2000, 6125, 99)
    """
    largest = int(limit_mb * 1e6) // max(sum(width + 4 for width in widths), 1)
    return max(1, min(max(LEAST_SIZE, patches // SHARE), patches, largest))


def to_half_clamped(latents: Tensor) -> Tensor:
    """Latents in half precision, clamped to its range."""
    largest = torch.finfo(torch.half).max
    return latents.clamp(-largest, largest).half()


def coreset(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Indices (size,) of distinct rows (N, D) that all other rows are close to.

    Greedy k-center: each row is the one farthest from those chosen before. The largest distance to
    a chosen row is at most twice the smallest possible; with more than 64 channels, distances are
    those of random projections of the rows. Distances only shrink, so the next rows come from a
    pool of the farthest until one outside may be farther; then all distances are updated at once.

    References: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; Roth et
    al. 2022, PatchCore, arXiv:2106.08265, section 3.2, with random projections; Minoux 1978,
    "Accelerated greedy algorithms for maximizing submodular set functions", for the bounds.

    Example:
        >>> rows = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
        >>> sorted(coreset(rows, 2, torch.Generator().manual_seed(0)).tolist())[-1]
        3
    """
    if size == len(rows):
        return torch.randperm(size, generator=generator)
    rows = sketch(rows, generator)
    squares = rows.square().sum(1)
    distances = torch.full_like(squares, torch.inf)  # squared, to the nearest chosen row
    added = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
    chosen, count = [added], 1
    while count < size:
        shrink_distances(distances, rows, squares, added)
        farthest = distances.topk(min(POOL + 1, len(rows)))
        pool, bound = farthest.indices[:-1], farthest.values[-1].item()
        picked = farthest_in_pool(rows[pool], farthest.values[:-1], bound, size - count)
        added = pool[picked]
        chosen.append(added)
        count += len(added)
    return torch.cat(chosen).cpu()


def sketch(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (N, D) in float32, projected on random directions where there are more than 64."""
    if rows.shape[1] <= SKETCH:
        return rows.float()
    directions = torch.randn(rows.shape[1], SKETCH, generator=generator).to(rows.device)
    return torch.cat([part.float() @ directions for part in rows.split(ROWS)])


def shrink_distances(distances: Tensor, rows: Tensor, squares: Tensor, added: Tensor) -> None:
    """Update squared distances (N,) of rows (N, D) for newly chosen rows, which are excluded."""
    centres, norms = rows[added].T, squares[added]
    for part in torch.arange(len(rows), device=rows.device).split(ROWS):
        nearest = torch.addmm(norms, rows[part], centres, alpha=-2).amin(1) + squares[part]
        distances[part] = torch.minimum(distances[part], nearest)
    distances[added] = -torch.inf


def farthest_in_pool(rows: Tensor, distances: Tensor, bound: float, most: int) -> list[int]:
    """Indices of pool rows (P, D) in the order they are chosen, at least one.

    Args:
        rows: The rows of the pool.
        distances: Their squared distances (P,) to the nearest row chosen before.
        bound: Squared distance that no row outside the pool exceeds.
        most: Largest number of rows to choose.
    """
    squared = torch.cdist(rows, rows).square()
    picked: list[int] = []
    while len(picked) < most:
        farthest = int(distances.argmax())
        if picked and distances[farthest] < bound:
            break
        picked.append(farthest)
        distances = torch.minimum(distances, squared[farthest])
        distances[farthest] = -torch.inf
    return picked
