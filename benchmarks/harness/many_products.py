"""A checkpoint of many products, each with tensors of its own, written without holding them all.

For `products` of `benchmarks.memory`, and what is beside the backbone in `benchmarks.speed`.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moleflow_pl import MoLEFlow
from moleflow_pl.checkpoints.expert_edits import renamed, task_of
from moleflow_pl.checkpoints.io import with_seal
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.features.statistics import FeatureStatistics
from moleflow_pl.model.inspector import Inspector

ALIGNMENT = 64  # bytes


def first_product(arguments: Mapping[str, Any], vectors: int) -> dict[str, Any]:
    """The checkpoint of a model that knows one product by random tensors.

    Args:
        arguments: Of `MoLEFlow`.
        vectors: In each of its memory banks.
    """
    torch.manual_seed(0)
    model = MoLEFlow(**arguments)
    inspector = model.inspector
    dim = inspector.extractor.dim
    model.schedule.extend([["product 0"]], epochs=1)
    model.schedule.tasks[0].epochs_done = 1
    model.learner.begin_task(0)
    for prototype in inspector.add_prototypes(0):
        statistics = FeatureStatistics(dim, prototype.regions)
        statistics.update(torch.randn(4, *prototype.mean.shape))
        prototype.set(statistics)
    banks = {
        name: [(vectors, width) for width in widths]
        for name, widths in bank_widths(inspector).items()
    }
    inspector.make_memory(0, {name: banks.get(name, []) for name in inspector.score.parts})
    for buffer in inspector.banks.buffers():
        if buffer.dtype == torch.int8:
            buffer.random_(-127, 128)
        elif buffer.ndim:
            buffer.fill_(0.02)
    with torch.no_grad():
        for parameter in inspector.flow.expert_parameters(0):
            parameter.add_(0.01 * torch.randn_like(parameter))
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def bank_widths(inspector: Inspector) -> dict[str, list[int]]:
    """Channels of each memory bank, by the part of the score that compares with them."""
    widths = {"groups": [*inspector.extractor.groups.widths]}
    return {
        name: widths.get(name, [inspector.extractor.dim]) for name in inspector.score.with_banks
    }


def variant(tensor: Tensor, task: int) -> Tensor:
    """What a tensor of the first product is for another, as valid and with other bytes."""
    if tensor.dtype == torch.int8:
        return tensor.roll(task, 0)
    return tensor * (1 + task / 1e5) if tensor.is_floating_point() else tensor


def write_products(path: Path, count: int, arguments: Mapping[str, Any], vectors: int) -> None:
    """Write a checkpoint of `count` products.

    Args:
        path: The file.
        count: Products.
        arguments: Of `MoLEFlow`.
        vectors: In each of a product's memory banks.
    """
    checkpoint = first_product(arguments, vectors)
    state, weights = checkpoint[STATE_KEY], checkpoint["state_dict"]
    own = [key for key in weights if task_of(checkpoint, key) == 0]
    planned = state["tasks"][0]
    state["tasks"] = [{**planned, "products": [f"product {i}"]} for i in range(count)]
    state["experts"] = state["prototypes"] = list(range(count))
    with tempfile.TemporaryFile(dir=path.parent) as scratch:
        for task in range(count):
            names = [renamed(checkpoint, key, task) for key in own]
            tensors = stored([variant(weights[key], task) for key in own], scratch)
            weights.update(zip(names, tensors, strict=True))
        torch.save(with_seal(checkpoint), path)


def stored(tensors: list[Tensor], scratch: Any) -> Iterator[Tensor]:
    """Copies of tensors at the end of a file, where they take no memory."""
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
    offsets = list(accumulate(sizes, initial=0))
    start = scratch.seek(0, 2)
    whole = -(-offsets[-1] // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    scratch.truncate(start + whole)
    room = mmap.mmap(scratch.fileno(), whole, offset=start)
    for tensor, offset in zip(tensors, offsets[:-1], strict=True):
        count = max(tensor.numel(), 1)
        flat = torch.frombuffer(room, dtype=tensor.dtype, count=count, offset=offset)
        yield flat.view(tensor.shape).copy_(tensor)
