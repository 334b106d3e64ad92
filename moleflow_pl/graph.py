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
from moleflow_pl.scoring import Upsampling, anomaly_map, image_score, patch_nll


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
        own = flow.input_adapters
        self.adapters = nn.ModuleList(copy.deepcopy(own[str(t)]) for t in tasks if str(t) in own)
        self.flow = copy.deepcopy(flow.flow)
        for block in self.flow:
            block.subnet = StackedSubnet(block.subnet, tasks)

    def forward(self, features: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to latent and log-determinant."""
        if self.adapters:
            adapted = torch.stack([adapter(features) for adapter in self.adapters])
            features = adapted[place, torch.arange(place.shape[0], device=place.device)]
        rows, log_det = self.flow(features.reshape(-1, features.shape[-1]), c=[place])
        return rows.reshape(features.shape), log_det.reshape(features.shape[:-1])


class InspectionGraph(nn.Module):
    """What `MoLEFlow` says of images, as tensors that any runtime can give.

    Args:
        model: A trained model.
        tasks: The tasks it may choose from; all that have a prototype by default.
        map_size: Side of the anomaly map.
        blur_sigma: Standard deviation of the map's blur; 0 for none.
        upsampling: How patch scores become the map.

    Shape: image (B, 3, H, W), uint8 RGB -> map (B, map_size, map_size) and score (B,) in nats,
    product (B,), a place in `tasks`, and distance (B,), the router's to that product.

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
        self.quantile = model.image_quantile
        self.map_options: dict[str, Any] = {
            "size": (map_size, map_size), "sigma": blur_sigma, "upsampling": upsampling,
        }  # fmt: skip
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map, score, product and distance of each image."""
        features = self.extractor(image)
        distances = self.router.distances(features.mean((1, 2)))[:, self.columns]
        distance, place = distances.min(1)
        patch_scores = self.patch_scores(features, place)
        score = image_score(patch_scores, self.quantile)
        return anomaly_map(patch_scores, **self.map_options), score, place, distance

    def patch_scores(self, features: Tensor, place: Tensor) -> Tensor:
        """NLL (B, h, w) of features (B, h, w, D) by the experts at `place` (B,)."""
        return patch_nll(*self.flow(self.position(features), place))
