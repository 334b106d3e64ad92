"""Variants of good images: flipped, turned, or in other light, where a product allows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moleflow_pl._internal.libraries import InterpolationMode, rotate
from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.layouts.registry import require_products
from moleflow_pl.errors import ConfigError, DataError

Variant = Literal[
    "hflip", "vflip", "rot90", "rot180", "rot270", "tilt_left", "tilt_right", "darker", "brighter"
]  # fmt: skip
Variants = Sequence[Variant] | Mapping[str, Sequence[Variant]]  # of all products, or by product
TILT = 5.0  # degrees
DARKER, BRIGHTER = 0.8, 1.2  # times the brightness
QUARTERS = ("rot90", "rot270")  # turns that swap height and width


def tilt(image: Tensor, degrees: float) -> Tensor:
    """Rotate an image (3, H, W) counter-clockwise; its mirror image fills the corners."""
    height, width = image.shape[1:]
    # how far a corner moves; numpy mirrors as often as it takes
    down, across = (math.ceil(math.sin(math.radians(TILT)) * side) for side in (width, height))
    wide = np.pad(image.numpy(), ((0, 0), (down, down), (across, across)), mode="symmetric")
    turned = rotate(torch.from_numpy(wide)[None].float(), degrees, InterpolationMode.BILINEAR)[0]
    inside = turned[:, down : down + height, across : across + width]
    return inside.round().clamp(0, 255).to(image.dtype)


def lit(image: Tensor, factor: float) -> Tensor:
    """An image (3, H, W), uint8, of another brightness."""
    return (image.float() * factor).round().clamp(0, 255).to(image.dtype)


VARIANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "hflip": lambda image: image.flip(-1),
    "vflip": lambda image: image.flip(-2),
    "rot90": lambda image: image.rot90(1, (-2, -1)),
    "rot180": lambda image: image.rot90(2, (-2, -1)),
    "rot270": lambda image: image.rot90(3, (-2, -1)),
    "tilt_left": lambda image: tilt(image, TILT),
    "tilt_right": lambda image: tilt(image, -TILT),
    "darker": lambda image: lit(image, DARKER),
    "brighter": lambda image: lit(image, BRIGHTER),
}


def apply_variant(rgb: Image.Image, variant: str | None) -> Image.Image:
    """A picture as a variant of it; the same without one."""
    if variant is None:
        return rgb
    channels = VARIANTS[variant](torch.from_numpy(np.array(rgb)).permute(2, 0, 1))
    return Image.fromarray(channels.permute(1, 2, 0).numpy())


def originals_of(records: Sequence[ImageRecord]) -> Tensor:
    """For each training image, the index of the image that it is a variant of, or its own.

    Example:
        >>> from pathlib import Path
        >>> originals_of(multiplied([ImageRecord(Path(p), "x") for p in "ab"], ["hflip"]))
        tensor([0, 1, 0, 1])
    """
    first = {record.path: i for i, record in enumerate(records) if record.variant is None}
    return torch.tensor([first[record.path] for record in records])


def check_variants(variants: Variants | None, groups: Sequence[Sequence[str]]) -> None:
    """Check that variants exist, and are of products that exist.

    Raises:
        ConfigError: a variant or a product is unknown, or a variant is repeated.
    """
    by_product = variants if isinstance(variants, Mapping) else {}
    require_products("data.variants names", by_product, groups)
    for given in by_product.values() if by_product else [variants or ()]:
        wrong = isinstance(given, str) or [v for v in given if v not in get_args(Variant)]
        if wrong or len({*given}) < len(given):
            raise ConfigError(
                f"data.variants must be a list of different names among {[*VARIANTS]}, or such a "
                f"list for each product: got {given!r}"
            )


def variants_of(product: str, variants: Variants | None) -> Sequence[Variant]:
    """The variants of a product.

    Example:
        >>> variants_of("b", {"a": ["hflip"]}), variants_of("b", ["hflip"])
        ((), ['hflip'])
    """
    return variants.get(product, ()) if isinstance(variants, Mapping) else variants or ()


def multiplied(records: Sequence[ImageRecord], variants: Variants | None) -> list[ImageRecord]:
    """Training images: all of them first, then each once more for each variant of its product."""
    return [
        *records,
        *(replace(r, variant=v) for r in records for v in variants_of(r.product, variants)),
    ]


def alternating(records: Sequence[ImageRecord], variants: Variants | None) -> list[ImageRecord]:
    """Calibration images: each once, unchanged or as one of the variants in turn.

    An image that counted several times would make a threshold look more certain than it is.
    """
    found, seen = [], dict.fromkeys((record.product for record in records), 0)
    for record in records:
        kinds = (None, *variants_of(record.product, variants))
        found.append(replace(record, variant=kinds[seen[record.product] % len(kinds)]))
        seen[record.product] += 1
    return found


def check_shapes(
    products: Iterable[str], variants: Variants | None, size: tuple[int, int], inside: Tensor
) -> None:
    """Check that variants keep the size of images, and their region of interest.

    Args:
        products: The products of a task.
        variants: Their variants.
        size: Height and width of the images.
        inside: Whether each patch counts (h, w), bool.

    Raises:
        DataError: a variant changes the size or moves the region.
    """
    for product in products:
        for variant in variants_of(product, variants):
            if variant in QUARTERS and size[0] != size[1]:
                raise DataError(
                    f"the variant {variant} of {product!r} needs square images, got {size[0]} x "
                    f"{size[1]} (model.image_size): leave it out of data.variants"
                )
            shown = inside[None].expand(3, -1, -1).byte() * 255
            if not inside.all() and not VARIANTS[variant](shown).gt(0).equal(shown.gt(0)):
                raise DataError(
                    f"the variant {variant} of {product!r} moves its region of interest: leave it "
                    "out of data.variants, or do without the mask (data.roi, roi.png)"
                )
