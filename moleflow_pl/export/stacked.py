"""Stacked experts of several tasks, from which each image selects that of its task.

An exported graph indexes the stack once for each image, so that many experts cost as much as one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl.features.region_of_interest import Region, by_region
from moleflow_pl.flow.lora import LoRALinear, MoLESubnet
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.flow.stack import Stack
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.novelty import ordinary_quantile, sample_patches, sampled_places
from moleflow_pl.routing.region_router import bounded_total
from moleflow_pl.routing.router import NEAREST, PrototypeRouter
from moleflow_pl.scoring.bank_search import (
    NEIGHBOURS,
    BankVectors,
    soft_projection_distance,
    temperature_of,
)
from moleflow_pl.scoring.memory_bank import LEVELS


class StackedLinear(Stack):
    """A `LoRALinear` as the merged weights of several tasks.

    Shape: x (B, n, D_in), index (B,) into `tasks` -> (B, n, D_out).
    """

    def __init__(self, layer: LoRALinear, tasks: Sequence[int]) -> None:
        weights = [layer.get_merged_weight(task).T for task in tasks]
        zero = weights[0].new_zeros(1, weights[0].shape[0])  # a layer maps it to the bias
        super().__init__(weight=weights, bias=[layer(zero, task) for task in tasks])

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Apply to each image the weights of its task."""
        return x @ self.select("weight", index) + self.select("bias", index)


class StackedSubnet(nn.Module):
    """The subnet of a coupling for the rows of B images, each of which has its own task.

    Shape: rows (B n, D_in), index (B,) -> (B n, D_out).
    """

    def __init__(self, subnet: MoLESubnet, tasks: Sequence[int]) -> None:
        super().__init__()
        self.layer1 = StackedLinear(subnet.layer1, tasks)
        self.layer2 = StackedLinear(subnet.layer2, tasks)

    def forward(self, rows: Tensor, index: Tensor) -> Tensor:
        """Apply to each image the expert of its task."""
        x = rows.reshape(index.shape[0], -1, rows.shape[1])
        return self.layer2(F.relu(self.layer1(x, index)), index).flatten(0, 1)


class StackedFlow(nn.Module):
    """The flow with the experts of `tasks`.

    Shape: features (B, h, w, D), index (B,) -> latent (B, h, w, D), log_det (B, h, w).
    """

    def __init__(self, flow: MoLESpatialAwareNF, tasks: Sequence[int]) -> None:
        super().__init__()
        used: list[Any] = [flow.adapter_of(task) for task in tasks]
        adapters = used if flow.use_task_adapter else []
        self.adapter = adapters[0].stacked(adapters) if adapters else None
        log_dets = [adapter.log_det() for adapter in adapters] or [torch.zeros(())] * len(tasks)
        self.adapter_log_dets = Stack(log_det=log_dets)
        self.flow = copy.deepcopy(flow.flow)
        for block in self.flow:
            block.subnet = StackedSubnet(block.subnet, tasks)

    def forward(self, features: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to latent and log-determinant, each image by its expert."""
        latent, log_det = self.flow(self._adapted(features, index), c=[index])
        log_det = log_det.reshape(features.shape[:-1])
        adapter_log_det = self.adapter_log_dets.select("log_det", index)
        return latent.reshape(features.shape), log_det + adapter_log_det[:, None, None]

    def encode_half(self, features: Tensor, index: Tensor) -> Tensor:
        """Latents (B, h, w, D) after the first half of the blocks."""
        rows = self._run_blocks(self.halves[0], self._adapted(features, index), index)
        return rows.reshape(features.shape)

    def finish(self, latent: Tensor, index: Tensor) -> Tensor:
        """Pass the result of `encode_half` (B, h, w, D) through the second half of the blocks."""
        rows = self._run_blocks(self.halves[1], latent.flatten(0, 2), index)
        return rows.reshape(latent.shape)

    @property
    def halves(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """The first and the second half of the blocks."""
        blocks = list(self.flow)
        middle = len(blocks) // 2
        return blocks[:middle], blocks[middle:]

    def _run_blocks(self, blocks: Sequence[nn.Module], rows: Tensor, index: Tensor) -> Tensor:
        for block in blocks:
            (rows,), _ = block((rows,), c=[index])
        return rows

    def _adapted(self, features: Tensor, index: Tensor) -> Tensor:
        rows = features.flatten(1, 2)
        return (rows if self.adapter is None else self.adapter(rows, index)).flatten(0, 1)


class StackedBank(Stack):
    """The memory banks of several tasks.

    Args:
        banks: The bank of each task; they may differ in size.
        regions: The region of interest of each task.

    Shape: latent (B, h, w, C), index (B,) -> distance to the soft projection on the bank (B, h, w).
    """

    def __init__(self, banks: Sequence[BankVectors], regions: Sequence[Region | None]) -> None:
        size = max(len(bank) for bank in banks)
        # rows that pad a smaller bank are never among the nearest
        far = torch.finfo(torch.half).max
        padding = {"values": LEVELS, "factors": far / LEVELS, "derived": far}
        parts = {
            name: [
                F.pad(part, (0, 0, 0, size - len(part)), value=value)
                for bank in banks
                if (part := getattr(bank, name)) is not None
            ]
            for name, value in padding.items()
        }
        super().__init__(**{name: part for name, part in parts.items() if part})
        self.stored = [name for name in parts if parts[name]]
        self.regions = regions
        self.neighbours = min(NEIGHBOURS, *(len(bank) for bank in banks))

    def forward(self, latent: Tensor, index: Tensor) -> Tensor:
        """Search for each image the bank of its task."""
        stored = {name: self.select(name, index).to(latent.dtype) for name in self.stored}
        bank = stored["values"] * stored["factors"]
        if "derived" in stored:
            bank = torch.cat((bank, stored["derived"]), -1)
        rows = latent.flatten(1, 2)
        distances = bank.square().sum(-1)[:, None] - 2 * (rows @ bank.transpose(1, 2))
        indices = distances.topk(self.neighbours, largest=False).indices
        places = indices.flatten(1)[..., None].expand(-1, -1, bank.shape[-1])
        nearest = bank.gather(1, places).reshape(*indices.shape, bank.shape[-1])

        def temperature(squared: Tensor) -> Tensor:
            def of(region: Region | None) -> Tensor:
                return temperature_of(squared, None if region is None else region.places)

            return by_region(self.regions, index, of)

        return soft_projection_distance(rows, nearest, temperature).reshape(latent.shape[:-1])


class StackedMemory(nn.Module):
    """The memory banks and scales of several tasks, for all parts of the score.

    Args:
        model: A trained model.
        tasks: The tasks.
    """

    def __init__(self, model: Inspector, tasks: Sequence[int]) -> None:
        super().__init__()
        regions = [model.interest.for_task(task) for task in tasks]
        searched = [model.search_banks(task) for task in tasks if model.score.with_banks]
        self.banks = nn.ModuleDict({
            name: nn.ModuleList(
                StackedBank(banks, regions)
                for banks in zip(*(each[name] for each in searched), strict=True)
            )
            for name in model.score.with_banks
        })  # fmt: skip
        scaled = model.score.parts if model.score.are_scaled else ()
        scales = {name: [model.memory(task)[name].scale for task in tasks] for name in scaled}
        self.scales = Stack(**scales)

    def forward(self, name: str, vectors: Tensor, index: Tensor, bank: int) -> Tensor:
        """Distances (B, h, w) of vectors (B, h, w, C) in one bank of one part of the score."""
        banks: Any = self.banks[name]
        return banks[bank](vectors, index)

    def scale(self, name: str, index: Tensor) -> Tensor:
        """Scales (B,) of a part."""
        return self.scales.select(name, index)


class StackedChoice(nn.Module):
    """The choice of a router among some tasks.

    Args:
        router: Chooses the nearest task, and between two close ones by the distance of the pair.
        columns: Columns of the tasks in the router's distances.

    Shape: image features (B, D) or (B, R, D), distances (B, C) -> places in `columns` (B,).
    """

    def __init__(self, router: PrototypeRouter, columns: Sequence[int]) -> None:
        super().__init__()
        pairs = router.close_pairs(columns)
        self.has_pairs = bool(pairs)
        if not pairs:
            return
        prototypes: list[Any] = [router.prototypes[str(router.tasks[c])] for c in columns]
        table = torch.zeros(len(columns), len(columns), dtype=torch.long)
        for number, (first, second) in enumerate(pairs, start=1):
            table[first, second] = table[second, first] = number
        device = prototypes[0].mean.device
        roots = [torch.zeros_like(next(iter(pairs.values()))), *pairs.values()]
        self.register_buffer("table", table.to(device))
        self.register_buffer("roots", torch.stack(roots).to(device))
        self.register_buffer("means", torch.stack([p.mean.detach().double() for p in prototypes]))
        self.table: Tensor
        self.roots: Tensor
        self.means: Tensor

    def forward(self, features: Tensor, distances: Tensor) -> Tensor:
        """The places of the images' tasks."""
        if not self.has_pairs:
            return distances.argmin(1)
        first, second = distances.topk(2, largest=False).indices.unbind(1)
        pair = self.table[first, second]
        root, rows = self.roots[pair], features.double()
        # where no pair is close, the root is 0 and both distances are equal
        totals = [bounded_total(rows - self.means[place], root) for place in (first, second)]
        return torch.where(totals[1] < totals[0], second, first)


def stacked_places(regions: Sequence[Region | None]) -> dict[str, list[Tensor]]:
    """The patches (n,) that novelty is measured at, for each task; none if all patches count."""
    known = next((region for region in regions if region is not None), None)
    if known is None:
        return {}
    whole = sampled_places((known.inside.shape[0], known.inside.shape[1])).to(known.inside.device)
    return {
        "places": [whole if region is None else region.spread(len(whole)) for region in regions]
    }


class StackedNovelty(Stack):
    """The novelty ratio: novelty distances to the nearest tasks, divided by their limits.

    Args:
        router: Measures novelty distances.
        tasks: The tasks.
        limits: The novelty limit of each task; NaN for a task without one, which makes no image
            known.
        regions: The region of interest of each task; by default all patches count.

    Shape: features (B, h, w, D), distances of the router (B, T) -> (B,), above 1 for an image that
    shows none of the products.
    """

    def __init__(
        self,
        router: PrototypeRouter,
        tasks: Sequence[int],
        limits: Sequence[float],
        regions: Sequence[Region | None] = (),
    ) -> None:
        prototypes: list[Any] = [router.prototypes[str(task)] for task in tasks]
        super().__init__(
            mean=[prototype.mean[None] for prototype in prototypes],
            root=[router.root(task) for task in tasks],
            limit=list(torch.tensor(limits).nan_to_num(0.0, posinf=torch.inf)),
            **stacked_places(regions),
        )
        self.has_regions = any(regions)
        self.count = min(NEAREST, len(tasks))

    def forward(self, features: Tensor, distances: Tensor) -> Tensor:
        """The smallest ratio among the nearest tasks."""
        nearest = distances.topk(self.count, largest=False).indices
        shared = None if self.has_regions else sample_patches(features)
        ratios = []
        for index in nearest.unbind(1):
            patches = self._patches(features, index) if shared is None else shared
            ratios.append(self._ratio(patches, index))
        return torch.stack(ratios).amin(0)

    def _patches(self, features: Tensor, index: Tensor) -> Tensor:
        places = self.select("places", index)[..., None].expand(-1, -1, features.shape[-1])
        return F.normalize(features.flatten(1, 2).gather(1, places), dim=-1)

    def _ratio(self, patches: Tensor, index: Tensor) -> Tensor:
        rotated = (patches - self.select("mean", index)) @ self.select("root", index)
        distance = ordinary_quantile(torch.linalg.vector_norm(rotated, dim=-1))
        return distance / self.select("limit", index)
