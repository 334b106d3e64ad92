"""Build an inspector from plain values, as a command line or a checkpoint gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from moleflow_pl._internal.validation import require_number
from moleflow_pl.errors import ConfigError
from moleflow_pl.features.extractor import PatchExtractor, Precision
from moleflow_pl.features.groups import GroupNorm
from moleflow_pl.features.position import NoPosition, PositionalGrid, check_channels
from moleflow_pl.features.tiled_extractor import TiledExtractor
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.image_features import IMAGE_FEATURES
from moleflow_pl.routing.router import ROUTERS
from moleflow_pl.scoring.functional import IMAGE_SCORES
from moleflow_pl.scoring.patch_scores import PATCH_SCORES, PatchScore

LARGEST_BANKS = 1000  # MB for each task
NO_ROUTER = "none"
# arguments that determine which tensors and thresholds exist and what they mean
STRUCTURE = (
    "use_position", "coupling_layers", "clamp_alpha", "lora_rank", "lora_alpha", "use_lora",
    "use_task_adapter", "use_task_bias", "adapter", "prototype", "score", "image_score",
    "image_quantile",
)  # fmt: skip


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Build modules of ordinary float32 tensors, independent of the caller's defaults and modes."""
    default = torch.get_default_dtype()
    # tensors created in inference mode cannot be changed outside of it
    with torch.inference_mode(False):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


@contextmanager
def without_values() -> Iterator[None]:
    """Build modules whose tensors a checkpoint brings: they take no memory and no random numbers.

    The backbone has its values even so, for no checkpoint holds them.
    """
    with torch.device("meta"):
        yield


@contextmanager
def with_values() -> Iterator[None]:
    """Build modules in full, also within `without_values`."""
    device = torch.get_default_device()
    with torch.device("cpu" if device.type == "meta" else device):
        yield


@plain_tensors()
def build_inspector(
    *,
    backbone: str,
    layers: Sequence[int] | Sequence[Sequence[int]],
    flow_groups: int,
    group_norm: GroupNorm,
    image_size: int | list[int],
    backbone_weights: str,
    target_embed_dim: int | None,
    smooth: int,
    grid: int | list[int] | None,
    tile: int | list[int] | None,
    tile_overlap: int,
    precision: Precision,
    use_position: bool,
    coupling_layers: int,
    clamp_alpha: float,
    lora_rank: int,
    lora_alpha: float,
    use_lora: bool,
    use_task_adapter: bool,
    use_task_bias: bool,
    adapter: str,
    score: str | Sequence[str],
    bank_mb: float,
    router: str,
    prototype: str,
    image_score: str,
    image_quantile: float,
) -> Inspector:
    """Build an inspector without tasks.

    The arguments are those of `MoLEFlow`, which documents them and holds their defaults.

    Raises:
        ConfigError: an argument has an invalid value.
    """
    arguments = dict(locals())
    require_number("bank_mb", bank_mb, 0, LARGEST_BANKS, above=True)
    require_number("image_quantile", image_quantile, 0, 1)
    # look up names first: building a backbone takes seconds
    image_features, patch_scores = IMAGE_FEATURES[prototype](), build_scores(score)
    image_scorer, chosen_router = IMAGE_SCORES[image_score], ROUTERS[router]
    extractor_class: Any = PatchExtractor
    if tile is not None:
        extractor_class = partial(TiledExtractor, tile=tile, overlap=tile_overlap)
    with with_values():
        extractor: PatchExtractor = extractor_class(
            backbone, layers, image_size, backbone_weights, target_embed_dim, smooth, grid,
            precision, flow_groups, group_norm,
        )  # fmt: skip
        position = PositionalGrid() if use_position else NoPosition()
    if use_position:
        check_channels(extractor.dim)
    flow = MoLESpatialAwareNF(
        extractor.dim, coupling_layers, clamp_alpha, lora_rank, lora_alpha,
        use_lora, use_task_adapter, use_task_bias, adapter,
    )  # fmt: skip
    inspector = Inspector(
        extractor,
        flow,
        chosen_router(image_features.regions),
        patch_scores,
        partial(image_scorer, quantile=image_quantile),
        position,
        image_features,
        bank_mb,
        routes=router != NO_ROUTER,
    )
    inspector.arguments = arguments
    return inspector


def build_scores(names: str | Sequence[str]) -> list[PatchScore]:
    """The parts of a patch score, by name.

    Raises:
        ConfigError: a name is unknown or repeated, or there is none.

    Example:
        >>> [part.name for part in build_scores(["norm", "groups"])]
        ['norm', 'groups']
    """
    given = [names] if isinstance(names, str) else list(names)
    if not given or len(set(given)) != len(given):
        raise ConfigError(
            f"score must be a name, or a list of different names to add: got {names!r}"
        )
    return [PATCH_SCORES[name]() for name in given]
