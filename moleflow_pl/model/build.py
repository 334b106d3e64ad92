"""Build an inspector from its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from moleflow_pl.errors import ConfigError
from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.features.position import NoPosition, PositionalGrid, check_channels
from moleflow_pl.features.tiled_extractor import TiledExtractor
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from moleflow_pl.model.arguments import ModelArguments
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.routing.image_features import IMAGE_FEATURES
from moleflow_pl.routing.router import ROUTERS
from moleflow_pl.scoring.functional import IMAGE_SCORES
from moleflow_pl.scoring.patch_scores import PATCH_SCORES, PatchScore

NO_ROUTER = "none"


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
def build_inspector(arguments: ModelArguments) -> Inspector:
    """Build an inspector without tasks.

    Raises:
        ConfigError: an argument has an invalid value.
    """
    # look up names first: building a backbone takes seconds
    image_features = IMAGE_FEATURES[arguments.prototype]()
    patch_scores = build_scores(arguments.score)
    image_score = partial(IMAGE_SCORES[arguments.image_score], quantile=arguments.image_quantile)
    router_class = ROUTERS[arguments.router]
    with with_values():
        extractor = build_extractor(arguments)
        position = PositionalGrid() if arguments.use_position else NoPosition()
    if arguments.use_position:
        check_channels(extractor.dim)
    inspector = Inspector(
        extractor,
        build_flow(arguments, extractor.dim),
        router_class(image_features.regions),
        patch_scores,
        image_score,
        position,
        image_features,
        arguments.bank_mb,
        routes=arguments.router != NO_ROUTER,
    )
    inspector.arguments = arguments
    return inspector


def build_extractor(arguments: ModelArguments) -> PatchExtractor:
    """The extractor of a model, with tiles if the arguments ask for them."""
    extractor_class: Any = PatchExtractor
    if arguments.tile is not None:
        extractor_class = partial(
            TiledExtractor, tile=arguments.tile, overlap=arguments.tile_overlap
        )
    return extractor_class(
        arguments.backbone,
        arguments.layers,
        arguments.image_size,
        arguments.backbone_weights,
        arguments.target_embed_dim,
        arguments.smooth,
        arguments.grid,
        arguments.precision,
        arguments.flow_groups,
        arguments.group_norm,
    )


def build_flow(arguments: ModelArguments, channels: int) -> MoLESpatialAwareNF:
    """The flow of a model, without experts, for a number of channels."""
    return MoLESpatialAwareNF(
        channels,
        arguments.coupling_layers,
        arguments.clamp_alpha,
        arguments.lora_rank,
        arguments.lora_alpha,
        arguments.use_lora,
        arguments.use_task_adapter,
        arguments.use_task_bias,
        arguments.adapter,
    )


def build_scores(names: str | Sequence[str]) -> list[PatchScore]:
    """The parts of a patch score, by name.

    Raises:
        ConfigError: a name is unknown or repeated, or there is no name.

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
