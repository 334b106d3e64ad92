"""The way from image to decision as one graph, in which no number but the batch's size is open.

Router and all experts are inside. Each image is scored by the weights of its own expert alone,
picked from a stack of all of them: many experts cost as much as one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl.errors import ConfigError
from moleflow_pl.flow import MoLESpatialAwareNF
from moleflow_pl.lora import LoRALinear, MoLESubnet
from moleflow_pl.module import MoLEFlow
from moleflow_pl.scoring import Upsampling, anomaly_map, image_score, patch_nll, patch_norm


class StackedLinear(nn.Module):
    """A `LoRALinear` as the merged weights of several tasks, one over the other.

    Shape: x (B, n, D_in), place (B,) -> (B, n, D_out); `place` counts in `tasks`.
    """

    def __init__(self, layer: LoRALinear, tasks: Sequence[int]) -> None:
        super().__init__()
        weights = [layer.get_merged_weight(task).T for task in tasks]
        with torch.no_grad():
            # what a layer answers to nothing is its bias
            nothing = weights[0].new_zeros(1, weights[0].shape[0])
            biases = [layer(nothing, task) for task in tasks]
        self.register_buffer("weight", torch.stack(weights))
        self.register_buffer("bias", torch.stack(biases))
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """Answer each image by the weights of its task."""
        return x @ self.weight[place] + self.bias[place]


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


class StackedFlow(nn.Module):
    """The flow with the experts of `tasks`; a tensor says which image needs which.

    Input adapters are small: all of them run, and the right one's answer is picked.

    Shape: features (B, h, w, D), place (B,) -> latent (B, h, w, D), log_det (B, h, w).
    """

    def __init__(self, flow: MoLESpatialAwareNF, tasks: Sequence[int]) -> None:
        super().__init__()
        own = [flow.adapter_of(task) for task in tasks]
        self.adapters = nn.ModuleList(copy.deepcopy(one) for one in own if one is not None)
        volumes = [one.log_det().detach() for one in own if one is not None]
        self.register_buffer("volumes", torch.stack(volumes) if volumes else torch.zeros(len(own)))
        self.volumes: Tensor
        self.flow = copy.deepcopy(flow.flow)
        for block in self.flow:
            block.subnet = StackedSubnet(block.subnet, tasks)

    def forward(self, features: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to latent and log-determinant."""
        if self.adapters:
            adapted = torch.stack([adapter(features) for adapter in self.adapters])
            features = adapted[place, torch.arange(place.shape[0], device=place.device)]
        rows, log_det = self.flow(features.reshape(-1, features.shape[-1]), c=[place])
        log_det = log_det.reshape(features.shape[:-1]) + self.volumes[place][:, None, None]
        return rows.reshape(features.shape), log_det


class StackedBank(nn.Module):
    """The `LatentBank`s of several tasks, one over the other.

    Shape: latent (B, h, w, D), place (B,) -> distance to the nearest kept one (B, h, w).
    """

    def __init__(self, banks: nn.ModuleDict, tasks: Sequence[int]) -> None:
        super().__init__()
        kept: list[Any] = [banks[str(task)] for task in tasks]
        self.register_buffer("latents", torch.stack([bank.latents for bank in kept]))
        self.latents: Tensor

    def forward(self, latent: Tensor, place: Tensor) -> Tensor:
        """Ask each image's own bank."""
        kept = self.latents[place].to(latent.dtype)
        rows = latent.flatten(1, 2)
        products = rows @ kept.transpose(1, 2)
        nearest = (kept.square().sum(-1)[:, None] - 2 * products).amin(-1)
        squared = (nearest + rows.square().sum(-1)).clamp_min(0)
        return squared.sqrt().reshape(latent.shape[:-1])


def patch_median(features: Tensor) -> Tensor:
    """The lower median over patches, (B, D) of features (B, h, w, D); ONNX has no operator for it.

    Example:
        >>> patch_median(torch.tensor([4.0, 1.0, 3.0, 2.0]).reshape(1, 2, 2, 1))
        tensor([[2.]])
    """
    rows = features.flatten(1, 2)
    upper = rows.shape[1] - (rows.shape[1] - 1) // 2
    return rows.topk(upper, dim=1, sorted=False).values.amin(1)


class InspectionGraph(nn.Module):
    """What `MoLEFlow` says of images, as tensors that any runtime can give.

    Args:
        model: A trained model.
        tasks: The tasks it may choose from; all that have a prototype by default.
        map_size: Side of the anomaly map.
        blur_sigma: Standard deviation of the map's blur; 0 for none.
        upsampling: How patch scores become the map.

    Shape: image (B, 3, H, W), uint8 RGB -> map (B, map_size, map_size) and score (B,), in the
    unit of the model's patch scores, product (B,), a place in `tasks`, and distance (B,), the
    router's to that product.

    Raises:
        ConfigError: no task has been learned.
    """

    def __init__(
        self,
        model: MoLEFlow,
        tasks: Sequence[int] | None = None,
        map_size: int = 256,
        blur_sigma: float = 4.0,
        upsampling: Upsampling = "bilinear",
    ) -> None:
        super().__init__()
        known = model.router.tasks if model.routes else model.router.tasks[:1]
        self.tasks = known if tasks is None else list(tasks)
        if not self.tasks:
            raise ConfigError("no product has been learned: fit a task to its end first")
        self.columns = [model.router.tasks.index(task) for task in self.tasks]
        self.extractor, self.position, self.router = model.extractor, model.position, model.router
        self.flow = StackedFlow(model.flow, self.tasks)
        self.scored_by = model.score
        self.bank = StackedBank(model.banks, self.tasks) if model.score == "bank" else None
        self.patch_score = patch_nll if model.score == "nll" else patch_norm
        self.image_features = patch_median if model.prototype == "median" else model.image_features
        self.quantile = model.image_quantile
        self.map_options: dict[str, Any] = {
            "size": (map_size, map_size), "sigma": blur_sigma, "upsampling": upsampling,
        }  # fmt: skip
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map, score, product and distance of each image."""
        features = self.extractor(image)
        distances = self.router.distances(self.image_features(features))[:, self.columns]
        distance, place = distances.min(1)
        patch_scores = self.patch_scores(features, place)
        score = image_score(patch_scores, self.quantile)
        return anomaly_map(patch_scores, **self.map_options), score, place, distance

    def patch_scores(self, features: Tensor, place: Tensor) -> Tensor:
        """Scores (B, h, w) of features (B, h, w, D) by the experts at `place` (B,)."""
        latent, log_det = self.flow(self.position(features), place)
        return self.patch_score(latent, log_det) if self.bank is None else self.bank(latent, place)
