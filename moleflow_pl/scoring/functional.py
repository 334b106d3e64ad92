"""From latents to anomaly scores: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Upsampling = Literal["nearest", "bilinear", "bicubic"]
ImageScoreName = Literal["quantile", "tail"]
BEYOND = 0.98  # of the patches lie below an image's tail
BLUR_RADIUS = 4  # in standard deviations, as scipy.ndimage.gaussian_filter cuts its kernel


def patch_nll(latent: Tensor, log_det: Tensor) -> Tensor:
    """Negative log-likelihood of every patch, in nats, constant term included.

    Shape: latent (B, h, w, D), log_det (B, h, w) -> (B, h, w). Higher is more anomalous; the value
    is unbounded and may be negative, so rank it as it is.

    Example:
        >>> patch_nll(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1))
        tensor([[[1.8379]]])
    """
    dim = latent.shape[-1]
    return 0.5 * latent.square().sum(-1) + 0.5 * dim * math.log(2 * math.pi) - log_det


def patch_norm(latent: Tensor) -> Tensor:
    """Norm of every patch's latent: its distance from the mode.

    The NLL without what the map's volume adds: that tells where a density is spread thin, which
    rare normal patches share with defects. By the NLL three real products lose .023, .008 and .095
    of image AUROC (BENCHMARKS.md, What each default is worth). Not squared: in a map that is
    blurred, single patches far out would outshine their surroundings.

    Shape: latent (B, h, w, D) -> (B, h, w).

    Example:
        >>> patch_norm(torch.tensor([[[[3.0, 4.0]]]]))
        tensor([[[5.]]])
    """
    return torch.linalg.vector_norm(latent, dim=-1)


def quantile_score(patch_scores: Tensor, quantile: float = 0.99) -> Tensor:
    """Score of an image: a high quantile of its patches' scores.

    Shape: (B, h, w) -> (B,).

    Example:
        >>> quantile_score(torch.arange(101.0).reshape(1, 1, 101))
        tensor([99.])
    """
    return torch.quantile(patch_scores.flatten(1), quantile, dim=1)


def tail_mean(patch_scores: Tensor, quantile: float = BEYOND) -> Tensor:
    """Score of an image: the mean over its patches beyond a quantile, of one at least.

    The quantile of a small map looks past its highest scores, and that is where a small defect is;
    the highest alone is as often a normal patch that is rare (BENCHMARKS.md, What each default is
    worth).

    Shape: (B, h, w) -> (B,).

    References: Guo et al. 2025, Dinomaly, arXiv:2405.14325, section 4.1, takes the mean of the
    highest 1 % of a map's pixels.

    Example:
        >>> tail_mean(torch.arange(100.0).reshape(1, 1, 100))  # of 98 and 99
        tensor([98.5000])
    """
    rows = patch_scores.flatten(1)
    beyond = round((1 - quantile) * rows.shape[1], 6)  # of 100 patches one, whatever a float is
    return rows.topk(max(1, math.ceil(beyond)), dim=1).values.mean(1)


IMAGE_SCORES: dict[str, Callable[..., Tensor]] = {
    "quantile": quantile_score, "tail": tail_mean,
}  # fmt: skip


def anomaly_map(
    patch_scores: Tensor,
    size: tuple[int, int] = (256, 256),
    sigma: float = 4.0,
    upsampling: Upsampling = "bilinear",
) -> Tensor:
    """Patch scores as a map of pixels: brought to its size, then blurred by a Gaussian.

    Args:
        patch_scores: (B, h, w).
        size: Height and width of the map.
        sigma: Standard deviation of the blur in pixels of the map; 0 for none.
        upsampling: How the patches' scores become pixels.

    Shape: (B, h, w) -> (B, *size).

    Example:
        >>> anomaly_map(torch.ones(1, 4, 4), size=(32, 32)).shape
        torch.Size([1, 32, 32])
    """
    corners = None if upsampling == "nearest" else False  # torch asks for none there
    maps = F.interpolate(patch_scores[:, None], size=size, mode=upsampling, align_corners=corners)
    if sigma > 0:
        # reflection cannot reach further than the map itself
        radius = min(math.ceil(BLUR_RADIUS * sigma), min(size) - 1)
        # torchvision takes width and height; one axis after the other is the same blur for less
        maps = gaussian_blur(maps, [2 * radius + 1, 1], [sigma, sigma])
        maps = gaussian_blur(maps, [1, 2 * radius + 1], [sigma, sigma])
    return maps[:, 0]
