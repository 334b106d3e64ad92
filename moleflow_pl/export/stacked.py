"""Experts of several products, one over the other: a tensor says which image needs which.

Plain tensors that are gathered by it, so that an exported graph picks the expert of each image and
many experts cost as much as one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl.flow.film import IDENTITY_BLEND, TaskInputAdapter
from moleflow_pl.flow.lora import LoRALinear, MoLESubnet
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.flow.whitening import WhiteningAdapter
from moleflow_pl.routing.novelty import ordinary_quantile, sample_patches
from moleflow_pl.routing.router import NEAREST, PrototypeRouter


class Stack(nn.Module):
    """Tensors of several tasks as buffers, of which each image gets its own.

    Args:
        tasks: What they are called, and their values task by task.
    """

    def __init__(self, **tasks: Sequence[Tensor]) -> None:
        super().__init__()
        for name, values in tasks.items():
            self.register_buffer(name, torch.stack([value.detach() for value in values]))

    def of(self, name: str, place: Tensor) -> Tensor:
        """The tensors of the images' tasks (B, ...), by their place (B,)."""
        return self.get_buffer(name)[place]


class StackedLinear(Stack):
    """A `LoRALinear` as the merged weights of several tasks.

    Shape: x (B, n, D_in), place (B,) -> (B, n, D_out); `place` counts in `tasks`.
    """

    def __init__(self, layer: LoRALinear, tasks: Sequence[int]) -> None:
        weights = [layer.get_merged_weight(task).T for task in tasks]
        # what a layer answers to nothing is its bias
        nothing = weights[0].new_zeros(1, weights[0].shape[0])
        super().__init__(weight=weights, bias=[layer(nothing, task) for task in tasks])

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """Answer each image by the weights of its task."""
        return x @ self.of("weight", place) + self.of("bias", place)


class StackedSubnet(nn.Module):
    """A coupling's subnet for the rows of B images, each of a task of its own.

    Shape: rows (B n, D_in), place (B,) -> (B n, D_out).
    """

    def __init__(self, subnet: MoLESubnet, tasks: Sequence[int]) -> None:
        super().__init__()
        self.layer1 = StackedLinear(subnet.layer1, tasks)
        self.layer2 = StackedLinear(subnet.layer2, tasks)

    def forward(self, rows: Tensor, place: Tensor) -> Tensor:
        """Answer as the experts of the images do."""
        x = rows.reshape(place.shape[0], -1, rows.shape[1])
        return self.layer2(F.relu(self.layer1(x, place)), place).flatten(0, 1)


class StackedWhitening(Stack):
    """The `WhiteningAdapter`s of several tasks.

    Shape: features (B, n, D), place (B,) -> (B, n, D).
    """

    def __init__(self, adapters: Sequence[WhiteningAdapter]) -> None:
        super().__init__(
            mean=[one.mean[None] for one in adapters],
            whitening=[one.whitening for one in adapters],
            gain=[one.log_gain.exp()[None] for one in adapters],
            shift=[one.shift[None] for one in adapters],
        )

    def forward(self, features: Tensor, place: Tensor) -> Tensor:
        """Whiten each image by its task's statistics."""
        white = (features - self.of("mean", place)) @ self.of("whitening", place)
        return white * self.of("gain", place) + self.of("shift", place)


class StackedFilm(Stack):
    """The `TaskInputAdapter`s of several tasks.

    Shape: features (B, n, D), place (B,) -> (B, n, D).
    """

    def __init__(self, adapters: Sequence[TaskInputAdapter]) -> None:
        layers: list[list[Any]] = [[one.mlp[i] for i in (0, 2, 4)] for one in adapters]
        norms: list[Any] = [one.layer_norm for one in adapters]
        kept = [0.0 if one.has_reference else IDENTITY_BLEND for one in adapters]
        super().__init__(
            gamma=[one.film_gamma[0, 0] for one in adapters],
            beta=[one.film_beta[0, 0] for one in adapters],
            gate=[torch.sigmoid(one.residual_gate)[None] for one in adapters],
            kept=[torch.tensor([[share]]) for share in kept],
            norm_weight=[norm.weight[None] for norm in norms],
            norm_bias=[norm.bias[None] for norm in norms],
            **{f"weight{i}": [own[i].weight.T for own in layers] for i in range(3)},
            **{f"bias{i}": [own[i].bias[None] for own in layers] for i in range(3)},
        )
        self.eps = norms[0].eps

    def forward(self, features: Tensor, place: Tensor) -> Tensor:
        """Modulate each image as its task's adapter does."""
        normed = F.layer_norm(features, features.shape[-1:], eps=self.eps)
        normed = normed * self.of("norm_weight", place) + self.of("norm_bias", place)
        modulated = self.of("gamma", place) * normed + self.of("beta", place)
        x = modulated
        for i in range(3):
            x = x @ self.of(f"weight{i}", place) + self.of(f"bias{i}", place)
            x = F.gelu(x) if i < 2 else x
        adapted = modulated + self.of("gate", place) * x
        kept = self.of("kept", place)
        return kept * features + (1 - kept) * adapted


STACKS: dict[type[nn.Module], Any] = {
    WhiteningAdapter: StackedWhitening, TaskInputAdapter: StackedFilm,
}  # fmt: skip


class StackedFlow(nn.Module):
    """The flow with the experts of `tasks`.

    Shape: features (B, h, w, D), place (B,) -> latent (B, h, w, D), log_det (B, h, w).
    """

    def __init__(self, flow: MoLESpatialAwareNF, tasks: Sequence[int]) -> None:
        super().__init__()
        own: list[Any] = [flow.adapter_of(task) for task in tasks]
        self.adapter = None if own[0] is None else STACKS[type(own[0])](own)
        volumes = [torch.zeros(()) if one is None else one.log_det() for one in own]
        self.volumes = Stack(log_det=volumes)
        self.flow = copy.deepcopy(flow.flow)
        for block in self.flow:
            block.subnet = StackedSubnet(block.subnet, tasks)

    def forward(self, features: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to latent and log-determinant."""
        latent, log_det = self.flow(self._adapted(features, place), c=[place])
        log_det = log_det.reshape(features.shape[:-1])
        volume = self.volumes.of("log_det", place)
        return latent.reshape(features.shape), log_det + volume[:, None, None]

    def encode_half(self, features: Tensor, place: Tensor) -> Tensor:
        """Latents behind the first half of the blocks (B, h, w, D)."""
        rows = self._through(self.halves[0], self._adapted(features, place), place)
        return rows.reshape(features.shape)

    def finish(self, encode_half: Tensor, place: Tensor) -> Tensor:
        """The latents (B, h, w, D) that such ones become behind the other half."""
        return self._through(self.halves[1], encode_half.flatten(0, 2), place).reshape(
            encode_half.shape
        )

    @property
    def halves(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """The first half of the blocks and the others."""
        blocks = list(self.flow)
        middle = len(blocks) // 2
        return blocks[:middle], blocks[middle:]

    def _through(self, blocks: Sequence[nn.Module], rows: Tensor, place: Tensor) -> Tensor:
        for block in blocks:
            (rows,), _ = block((rows,), c=[place])
        return rows

    def _adapted(self, features: Tensor, place: Tensor) -> Tensor:
        rows = features.flatten(1, 2)
        return (rows if self.adapter is None else self.adapter(rows, place)).flatten(0, 1)


class StackedBank(Stack):
    """Kept latents of several tasks.

    Args:
        latents: Those of each task (M, D).

    Shape: latent (B, h, w, D), place (B,) -> distance to the nearest kept one (B, h, w).
    """

    def __init__(self, latents: Sequence[Tensor]) -> None:
        super().__init__(latents=latents)

    def forward(self, latent: Tensor, place: Tensor) -> Tensor:
        """Ask each image's own bank."""
        kept = self.of("latents", place).to(latent.dtype)
        rows = latent.flatten(1, 2)
        products = rows @ kept.transpose(1, 2)
        nearest = (kept.square().sum(-1)[:, None] - 2 * products).amin(-1)
        squared = (nearest + rows.square().sum(-1)).clamp_min(0)
        return squared.sqrt().reshape(latent.shape[:-1])


class StackedNovelty(Stack):
    """How far images are from the good ones of the nearest products, as a share of their limits.

    Args:
        router: Distances to the products' own good images.
        tasks: The products.
        limits: The distance beyond which an image shows another product, for each; NaN for a
            product that has none, which makes no image known.

    Shape: features (B, h, w, D), distances of the router (B, T) -> (B,), above 1 for an image that
    shows none of the products.
    """

    def __init__(
        self, router: PrototypeRouter, tasks: Sequence[int], limits: Sequence[float]
    ) -> None:
        prototypes: list[Any] = [router.prototypes[str(task)] for task in tasks]
        super().__init__(
            mean=[one.mean[None] for one in prototypes],
            root=[router.root(task) for task in tasks],
            limit=list(torch.tensor(limits).nan_to_num(0.0, posinf=torch.inf)),
        )
        self.asked = min(NEAREST, len(tasks))

    def forward(self, features: Tensor, distances: Tensor) -> Tensor:
        """The smallest share among the nearest products."""
        patches = sample_patches(features)
        near = distances.topk(self.asked, largest=False).indices
        shares = [self._share(patches, near[:, i]) for i in range(self.asked)]
        return torch.stack(shares).amin(0)

    def _share(self, patches: Tensor, place: Tensor) -> Tensor:
        turned = (patches - self.of("mean", place)) @ self.of("root", place)
        distance = ordinary_quantile(torch.linalg.vector_norm(turned, dim=-1))
        return distance / self.of("limit", place)
