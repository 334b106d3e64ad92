"""An inspector from plain values, as a command line or a checkpoint gives them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.features.extractor import PatchExtractor, Precision
from moleflow_pl.features.position import NoPosition, PositionalGrid, check_channels
from moleflow_pl.features.tiled_extractor import TiledExtractor
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.image_features import IMAGE_FEATURES
from moleflow_pl.routing.router import ROUTERS
from moleflow_pl.scoring.functional import IMAGE_SCORES
from moleflow_pl.scoring.patch_scores import PATCH_SCORES

LARGEST_BANK = 50_000  # latents of a task
NO_ROUTER = "none"
# arguments that decide which tensors and thresholds there are and what they mean
STRUCTURE = (
    "use_position", "coupling_layers", "clamp_alpha", "lora_rank", "lora_alpha", "use_lora",
    "use_task_adapter", "use_task_bias", "adapter", "prototype", "score", "image_score",
    "image_quantile",
)  # fmt: skip


def build_inspector(
    *,
    backbone: str,
    layers: Sequence[int],
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
    score: str,
    bank_size: int,
    router: str,
    prototype: str,
    image_score: str,
    image_quantile: float,
) -> Inspector:
    """Build an inspector that knows no task yet.

    The arguments are those of `MoLEFlow`, which documents them and holds their defaults.

    Raises:
        ConfigError: an argument has a value it cannot have.
    """
    arguments = dict(locals())
    require_int("bank_size", bank_size, 1, LARGEST_BANK)
    require_number("image_quantile", image_quantile, 0, 1)
    # names first: a backbone takes seconds to build
    image_features, patch_score = IMAGE_FEATURES[prototype](), PATCH_SCORES[score]()
    image_scorer, chosen_router = IMAGE_SCORES[image_score], ROUTERS[router]
    extractor_class: Any = PatchExtractor
    if tile is not None:
        extractor_class = partial(TiledExtractor, tile=tile, overlap=tile_overlap)
    extractor: PatchExtractor = extractor_class(
        backbone, layers, image_size, backbone_weights, target_embed_dim, smooth, grid, precision
    )
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
        patch_score,
        partial(image_scorer, quantile=image_quantile),
        PositionalGrid() if use_position else NoPosition(),
        image_features,
        bank_size,
        routes=router != NO_ROUTER,
    )
    inspector.arguments = arguments
    return inspector
