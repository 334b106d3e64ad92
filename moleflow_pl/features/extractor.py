"""Patch features of a frozen timm backbone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moleflow_pl._internal.torch_compat import has_bfloat16_instructions
from moleflow_pl._internal.validation import WIDEST, require_int, require_sides
from moleflow_pl.errors import ConfigError
from moleflow_pl.features.backbone import (
    PRETRAINED,
    check_disjoint,
    check_layers,
    checked_maps,
    feature_maps,
    fixed_projections,
    load_backbone,
    weights_hash,
)
from moleflow_pl.features.groups import (
    NORMALISATIONS,
    FeatureGroups,
    GroupNorm,
    layer_groups,
)

LONGEST_SIDE = 16384  # pixels of an image
MOST_GROUPS = 1000  # groups that the flow may see
# images at a time on a CPU: with more, activations exceed its caches, and the allocator returns
# their memory to the system each time
CPU_CHUNK = {"transformer": 4, "cnn": 2}

Precision = Literal["float32", "bfloat16", "auto"]
T = TypeVar("T")


def image_shape(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from one side or from both.

    Example:
        >>> image_shape(224), image_shape([140, 280])
        ((224, 224), (140, 280))
    """
    require_sides("image_size", size, 1, LONGEST_SIDE)
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


class PatchExtractor(nn.Module):
    """Frozen timm backbone that turns images into a grid of patch features.

    Layers of equal width and stride (the blocks of a ViT) are averaged; others (the stages of a
    CNN) are resized to the grid of the first and concatenated. Groups of layers stay apart, side by
    side in the channels; `groups` joins them for the flow. Class and register tokens are dropped
    and no final norm is applied. The backbone is always in eval mode and has no gradients.

    Args:
        backbone: Name of a timm model.
        layers: Feature levels to use, counted from 0 (timm's `forward_intermediates`), or groups
            of them, in any order. Within a group each counts once.
        image_size: Side of the images, or height and width.
        weights: `pretrained` (timm's own), a `.safetensors` or `.pth` file, `package:NAME`
            for an installed package that contains one, or `random`.
        target_embed_dim: Width of a fixed random projection; none by default.
        smooth: Side of the window that features are averaged over, odd; 1 for no averaging.
        grid: Side of the grid that features are pooled to, or height and width; none by default.
        precision: Precision of the backbone: `float32`, `bfloat16`, or `auto`, which is bfloat16
            where the hardware has instructions for it. Features are float32 in any case.
        flow_groups: How many groups the flow and the router see, counted from the first.
        group_norm: How each group is normalised where a score uses groups separately.

    Attributes:
        groups: The channels of each group.
        dim: Channels that the flow sees, D.

    Shape: images (B, 3, H, W), uint8 or float in [0, 1] -> features (B, h, w, W), with all groups;
    without groups, W is D.

    Raises:
        ConfigError: timm has no such backbone, layer or image size, the backbone gives no feature
            maps, or a number is out of range.

    Example:
        >>> extractor = PatchExtractor("test_vit", layers=[0, 1], image_size=160, weights="random")
        >>> extractor(torch.zeros(1, 3, 160, 160, dtype=torch.uint8)).shape
        torch.Size([1, 10, 10, 64])
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch14_dinov2.lvd142m",
        layers: Sequence[int] | Sequence[Sequence[int]] = (8, 9, 10, 11),
        image_size: int | Sequence[int] = 518,
        weights: str = PRETRAINED,
        target_embed_dim: int | None = None,
        smooth: int = 1,
        grid: int | Sequence[int] | None = None,
        precision: Precision = "float32",
        flow_groups: int = 2,
        group_norm: GroupNorm = "l2",
    ) -> None:
        super().__init__()
        self.precision = precision
        self.image_size = self.input_size = image_shape(image_size)
        check_options(self.image_size, smooth, grid, target_embed_dim, flow_groups, group_norm)
        self.grid = None if grid is None else image_shape(grid)
        self.smooth = smooth
        self.name = backbone
        self.backbone = load_backbone(backbone, weights, self.image_size)
        self.group_layers = layer_groups(layers)
        self.layers = check_layers(self.backbone, backbone, self.group_layers)
        self._tried = False
        self.kind = "transformer" if hasattr(self.backbone, "patch_embed") else "cnn"
        if self.kind == "cnn":
            self.backbone.to(memory_format=torch.channels_last)
        infos = [self.backbone.feature_info[i] for i in self.layers]
        self.averaged = len({(info["num_chs"], info["reduction"]) for info in infos}) == 1
        widths = self._map_widths([info["num_chs"] for info in infos])
        self.projections = fixed_projections(
            [width for of_group in widths for width in of_group], target_embed_dim
        )
        self.groups = FeatureGroups(
            tuple(target_embed_dim or of_group[0] for of_group in widths),
            min(flow_groups, len(self.group_layers)),
            self.averaged or target_embed_dim is not None,
            group_norm,
        )
        if not self.groups.averaged:
            check_disjoint(self.group_layers[: self.groups.seen])
        self.dim = self.groups.dim
        config = self.backbone.pretrained_cfg
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(config[key]).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.requires_grad_(False)
        self.train(False)

    def _map_widths(self, channels: Sequence[int]) -> list[list[int]]:
        """Channels of the maps of each group, from those of all layers; a CNN's are joined."""
        widths = divide(channels, [len(part) for part in self.group_layers])
        return widths if self.averaged else [[sum(of_group)] for of_group in widths]

    def train(self, mode: bool = True) -> PatchExtractor:
        """Stay in eval mode: an image's features must not depend on the rest of its batch."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Extract features (B, h, w, W) from images (B, 3, H, W)."""
        if images.shape[-2:] != self.image_size:
            raise ConfigError(
                f"the extractor takes images of {self.image_size} (height, width), "
                f"got {tuple(images.shape[-2:])}: resize them, or build it with this image_size"
            )
        if torch.compiler.is_compiling():
            return self._extract(images)  # an exported graph takes batches of any size
        if self.mean.dtype != torch.float32:
            raise ConfigError(
                f"the model is in {self.mean.dtype} and computes in float32: load it again, "
                "without .half(), .bfloat16() or .double()"
            )
        if not len(images):  # as a rank's share may be; timm cannot reshape it
            return self(images.new_zeros(1, *images.shape[1:]))[:0]
        device = images.device.type
        parts = images.split(CPU_CHUNK[self.kind] if device == "cpu" else len(images))
        # features are computed inside and outside of training steps: both need the same precision,
        # whatever the Trainer's is
        with torch.autocast(device, torch.bfloat16, enabled=self.runs_in_bfloat16(images.device)):
            return torch.cat([self._extract(part) for part in parts])

    def runs_in_bfloat16(self, device: torch.device) -> bool:
        """Whether the backbone runs in bfloat16 on `device`.

        Raises:
            ConfigError: bfloat16 is required and the device has no instructions for it.
        """
        if self.precision == "float32":
            return False
        if self.precision == "bfloat16" and not has_bfloat16(device):
            raise ConfigError(
                f"precision bfloat16: this {device.type} has no instructions for it and would be "
                "slower by orders of magnitude; use float32 or auto"
            )
        return has_bfloat16(device)

    @torch.no_grad()
    def require_maps(self) -> None:
        """Check that the backbone gives feature maps of its images.

        Raises:
            ConfigError: the backbone gives no feature maps.
        """
        if not self._tried:
            self._maps(self.mean.new_zeros(1, 3, *self.input_size))

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image's features, (h, w, W)."""
        image = torch.zeros(1, 3, *self.image_size, dtype=torch.uint8, device=self.mean.device)
        height, width, dim = self(image)[0].shape
        return height, width, dim

    @property
    def patches(self) -> int:
        """Number of patches of an image, h w."""
        return self.shape[0] * self.shape[1]

    @cached_property
    def _weights_hash(self) -> str:
        return weights_hash(self.backbone)

    def _extract(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        images = (images.to(self.mean.dtype) - self.mean) / self.std
        maps = self._maps(images)
        features = self._combine([maps[i].to(self.mean.dtype) for i in self.layers])
        if self.smooth > 1:
            features = F.avg_pool2d(
                features, self.smooth, 1, self.smooth // 2, count_include_pad=False
            )
        if self.grid is not None:
            features = F.adaptive_avg_pool2d(features, self.grid)
        return features.permute(0, 2, 3, 1).contiguous()

    def _maps(self, images: Tensor) -> dict[int, Tensor]:
        """The layers' maps, by number; the first maps of a model are checked."""
        if self.kind == "cnn":
            images = images.contiguous(memory_format=torch.channels_last)
        if self._tried:
            return feature_maps(self.backbone, images, self.layers)
        maps = checked_maps(self.backbone, self.name, images, self.layers)
        self._tried = True
        return maps

    def _combine(self, levels: list[Tensor]) -> Tensor:
        """Groups (B, W, h, w) from levels (B, C, h, w), joined within each group."""
        if not self.averaged:
            shape = levels[0].shape[-2:]
            levels = [
                level
                if level.shape[-2:] == shape
                else F.interpolate(level, size=shape, mode="bilinear", align_corners=False)
                for level in levels
            ]
        sizes = [len(part) for part in self.group_layers]
        joined = [self._join(part) for part in divide(levels, sizes)]
        if self.projections:
            maps = divide(list(self.projections), [len(part) for part in joined])
            joined = [
                [
                    layer(level.movedim(1, -1)).movedim(-1, 1)
                    for layer, level in zip(*pair, strict=True)
                ]
                for pair in zip(maps, joined, strict=True)
            ]
        return torch.cat([torch.stack(part).mean(0) for part in joined], 1)

    def _join(self, levels: list[Tensor]) -> list[Tensor]:
        """The levels of a group, to be averaged."""
        return levels if self.averaged else [torch.cat(levels, dim=1)]

    def fingerprint(self) -> dict[str, Any]:
        """Everything that the features depend on; an expert needs an equal fingerprint."""
        return {
            "backbone": self.name,
            "layers": self.group_layers if len(self.group_layers) > 1 else self.layers,
            "image_size": list(self.image_size),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "smooth": self.smooth,
            "grid": None if self.grid is None else list(self.grid),
            "flow_groups": self.groups.seen,
            "group_norm": self.groups.norm,
            "dim": self.dim,
            "weights_sha256": self._weights_hash,
        }


def check_options(
    image_size: tuple[int, int],
    smooth: int,
    grid: int | Sequence[int] | None,
    target_embed_dim: int | None,
    flow_groups: int,
    group_norm: str,
) -> None:
    """Check what does not depend on the backbone, before it is loaded: that takes seconds.

    Raises:
        ConfigError: an argument of `PatchExtractor` has an invalid value.
    """
    if grid is not None:
        require_sides("grid", grid, 1, max(image_size))
    require_int("smooth", smooth, 1, max(image_size))
    require_int("flow_groups", flow_groups, 1, MOST_GROUPS)
    if smooth % 2 == 0:
        raise ConfigError(f"smooth, the side of a centred window, must be odd, got {smooth}")
    if target_embed_dim is not None:
        require_int("target_embed_dim", target_embed_dim, 2, WIDEST)
    if group_norm not in NORMALISATIONS:
        raise ConfigError(f"group_norm must be one of {[*NORMALISATIONS]}, got {group_norm!r}")


def divide(items: Sequence[T], sizes: Sequence[int]) -> list[list[T]]:
    """Split items into parts of given sizes.

    Example:
        >>> divide("abc", [1, 2])
        [['a'], ['b', 'c']]
    """
    remaining = iter(items)
    return [[next(remaining) for _ in range(size)] for size in sizes]


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_bfloat16_instructions()
