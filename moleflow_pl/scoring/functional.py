"""From latents to anomaly scores: pure functions."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from moleflow_pl._internal.libraries import gaussian_blur
from moleflow_pl._internal.registry import Registry

Upsampling = Literal["nearest", "bilinear", "bicubic"]
TAIL_QUANTILE = 0.98  # share of the patches below an image's tail
BLUR_RADIUS = 4  # in standard deviations, as in scipy.ndimage.gaussian_filter


class ImageScore(Protocol):
    """The score (B,) of images from those of their patches (B, h, w)."""

    def __call__(self, patch_scores: Tensor, /, quantile: float) -> Tensor:
        """Score images; `quantile` is the share of the patches below those that count."""


IMAGE_SCORES: Registry[ImageScore] = Registry("image_score")


def patch_nll(latent: Tensor, log_det: Tensor) -> Tensor:
    """Negative log-likelihood of every patch, in nats, constant term included.

    Shape: latent (B, h, w, D), log_det (B, h, w) -> (B, h, w). Higher is more anomalous; the value
    is unbounded and may be negative: rank raw values.

    Example:
        >>> patch_nll(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1))
        tensor([[[1.8379]]])
    """
    dim = latent.shape[-1]
    return 0.5 * latent.square().sum(-1) + 0.5 * dim * math.log(2 * math.pi) - log_det


def patch_norm(latent: Tensor) -> Tensor:
    """Norm of every patch's latent: its distance from the mode.

    The NLL without its volume term. That term is large where the density is spread thin, at rare
    normal patches as well as at defects. The norm is not squared: squares would let a few outliers
    dominate a blurred map.

    Shape: latent (B, h, w, D) -> (B, h, w).

    Example:
        >>> patch_norm(torch.tensor([[[[3.0, 4.0]]]]))
        tensor([[[5.]]])
    """
    return torch.linalg.vector_norm(latent, dim=-1)


@IMAGE_SCORES.add("quantile")
def quantile_score(patch_scores: Tensor, quantile: float = 0.99) -> Tensor:
    """Score of an image: a high quantile of its patches' scores.

    Shape: (B, h, w) -> (B,).

    Example:
        >>> quantile_score(torch.arange(101.0).reshape(1, 1, 101))
        tensor([99.])
    """
    return torch.quantile(patch_scores.flatten(1), quantile, dim=1)


@IMAGE_SCORES.add("tail")
def tail_mean(patch_scores: Tensor, quantile: float = TAIL_QUANTILE) -> Tensor:
    """Score of an image: the mean over its patches above a quantile, at least one.

    In a small map a quantile ignores the highest scores, where a small defect is; the maximum alone
    is often a rare normal patch.

    Shape: (B, h, w) -> (B,).

    References: Guo et al. 2025, Dinomaly, arXiv:2405.14325, section 4.1: the mean of the highest
    1 % of a map's pixels.

    Example:
        >>> tail_mean(torch.arange(100.0).reshape(1, 1, 100))  # of 98 and 99
        tensor([98.5000])
    """
    rows = patch_scores.flatten(1)
    # rounded, so that 0.99 of 100 patches leaves one despite floating point
    count = math.ceil(round((1 - quantile) * rows.shape[1], 6))
    return rows.topk(max(1, count), dim=1).values.mean(1)


def lower_median(values: Tensor) -> Tensor:
    """Lower median (B, ...) of values (B, n, ...), from operators that ONNX supports.

    Example:
        >>> lower_median(torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
        tensor([2.])
    """
    upper = values.shape[1] - (values.shape[1] - 1) // 2
    return values.topk(upper, dim=1, sorted=False).values.amin(1)


def anomaly_map(
    patch_scores: Tensor,
    size: tuple[int, int] = (256, 256),
    sigma: float = 4.0,
    upsampling: Upsampling = "bilinear",
) -> Tensor:
    """Patch scores as a map of pixels: upsampled, then blurred by a Gaussian.

    Args:
        patch_scores: (B, h, w).
        size: Height and width of the map.
        sigma: Standard deviation of the blur in pixels of the map; 0 for none.
        upsampling: How patch scores are interpolated.

    Shape: (B, h, w) -> (B, *size).

    Example:
        >>> anomaly_map(torch.ones(1, 4, 4), size=(32, 32)).shape
        torch.Size([1, 32, 32])
    """
    corners = None if upsampling == "nearest" else False  # the only value torch accepts
    maps = F.interpolate(patch_scores[:, None], size=size, mode=upsampling, align_corners=corners)
    if sigma > 0:
        # reflection padding has to be smaller than the map
        radius = min(math.ceil(BLUR_RADIUS * sigma), min(size) - 1)
        # torchvision takes width and height; a separable blur costs less
        maps = gaussian_blur(maps, [2 * radius + 1, 1], [sigma, sigma])
        maps = gaussian_blur(maps, [1, 2 * radius + 1], [sigma, sigma])
    return maps[:, 0]
