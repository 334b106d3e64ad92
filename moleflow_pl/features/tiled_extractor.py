"""Features of images that are too large for the backbone, extracted tile by tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from moleflow_pl._internal.validation import require_int, require_sides
from moleflow_pl.errors import ConfigError
from moleflow_pl.features.extractor import LONGEST_SIDE, PatchExtractor, image_shape


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    Attributes:
        start: First pixel of the tile.
        cells: The cells of the tile's feature grid that become part of the whole grid.
    """

    start: int
    cells: slice


def spans(length: int, tile: int, overlap: int, cell: int, step: int) -> list[Span]:
    """Cover one axis of an image with tiles.

    The seam between two tiles lies in the middle of their overlap, so that every cell comes from
    the tile in which it is farthest from the border.

    Args:
        length: Side of the image, in pixels; a multiple of `step`, as `tile` is.
        tile: Side of a tile.
        overlap: Least overlap of neighbouring tiles, in pixels.
        cell: Side of a feature cell.
        step: Tiles start at multiples of this; a multiple of `cell`.

    Example:
        >>> [(s.start, s.cells.start, s.cells.stop) for s in spans(80, 48, 16, 8, 8)]
        [(0, 0, 5), (32, 1, 6)]
    """
    advance = (tile - overlap) // step * step
    starts = [*range(0, length - tile, advance), length - tile]
    seams = [(left + tile + right) // 2 // cell * cell for left, right in pairwise(starts)]
    edges = [0, *seams, length]
    return [
        Span(start, slice((first - start) // cell, (last - start) // cell))
        for start, (first, last) in zip(starts, pairwise(edges), strict=True)
    ]


class TiledExtractor(PatchExtractor):
    """A `PatchExtractor` that runs its backbone on one tile of an image at a time.

    The backbone is built for a tile; the features of all tiles are joined to the grid of the whole
    image. A cell equals that of the untiled image if its receptive field lies within its tile, or
    reaches beyond the tile only where it also reaches beyond the image. So:

    - A convolutional net without global operations (ResNet, EfficientNet-Lite; not nets with
      squeeze-and-excitation) gives the untiled features except along the seams, in strips no wider
      than its receptive field. If `overlap` is at least the receptive field, all are equal.
    - A ViT attends to the whole tile, with the positions of the tile: its features are those of
      each tile as a separate image and differ from the untiled ones everywhere. Use a model with
      the tiles that it was trained with.

    Args:
        backbone: Name of a timm model.
        layers: Feature levels to use, see `PatchExtractor`.
        image_size: Side of the images, or height and width.
        args: Further arguments of `PatchExtractor`; `grid` is the grid of one tile.
        tile: Side of a tile, or height and width.
        overlap: Least overlap of neighbouring tiles, in pixels.
        options: Further arguments of `PatchExtractor`, by name.

    Raises:
        ConfigError: tiles of this size and overlap cannot cover the images.

    Example:
        >>> extractor = TiledExtractor("test_vit", [0], 96, "random", tile=48, overlap=16)
        >>> extractor(torch.zeros(1, 3, 96, 96)).shape
        torch.Size([1, 6, 6, 64])
    """

    def __init__(
        self,
        backbone: str,
        layers: Sequence[int] | Sequence[Sequence[int]],
        image_size: int | Sequence[int],
        *args: Any,
        tile: int | Sequence[int],
        overlap: int,
        **options: Any,
    ) -> None:
        require_sides("tile", tile, 1, LONGEST_SIDE)
        require_int("tile_overlap", overlap, 0, LONGEST_SIDE)
        try:
            super().__init__(backbone, layers, tile, *args, **options)
        except ConfigError as error:
            raise ConfigError(f"for a tile of {tile}: {error}") from error
        self.tile = self.image_size
        self.image_size = image_shape(image_size)
        self.overlap = overlap
        strides = [self.backbone.feature_info[i]["reduction"] for i in self.layers]
        self.rows, self.columns = (self._cover(axis, strides) for axis in range(2))

    def _cover(self, axis: int, strides: Sequence[int]) -> list[Span]:
        length, tile = self.image_size[axis], self.tile[axis]
        name = ("height", "width")[axis]
        cells = tile // strides[0] if self.grid is None else self.grid[axis]
        cell = tile // cells
        # a tile must start where every level of the backbone has a cell
        step = math.lcm(cell, *strides)
        if tile % step or cell * cells != tile or cell % strides[0]:
            raise ConfigError(
                f"tile {name} {tile} does not hold whole cells of {cell} pixels at strides "
                f"{[*strides]}: choose a multiple of {step}, and a grid that divides it"
            )
        if length < tile or length % step:
            near = max(length // step * step, tile)
            raise ConfigError(
                f"image {name} {length} cannot be cut into tiles of {tile} that start at multiples "
                f"of {step}: the nearest sizes that fit are {near} and {near + step}"
            )
        if self.overlap > tile - step:
            raise ConfigError(
                f"tile_overlap {self.overlap} is too large for tiles of {name} {tile}: choose at "
                f"most {tile - step}"
            )
        return spans(length, tile, self.overlap, cell, step)

    def _maps(self, images: Tensor) -> dict[int, Tensor]:
        maps = super()._maps(images)
        for layer, level in maps.items():
            stride = self.backbone.feature_info[layer]["reduction"]
            cells = tuple(side // stride for side in self.tile)
            if level.shape[2:] != cells:
                raise ConfigError(
                    f"layer {layer} of {self.name} has {[*level.shape[2:]]} cells for a tile of "
                    f"{self.tile}, not {[*cells]}: it cannot be tiled; use another backbone"
                )
        return maps

    def _extract(self, images: Tensor) -> Tensor:
        height, width = self.tile
        strips = []
        for row in self.rows:
            strip = images[:, :, row.start : row.start + height]
            tiles = [strip[..., column.start : column.start + width] for column in self.columns]
            features = [
                super(TiledExtractor, self)._extract(tile)[:, row.cells, column.cells]
                for tile, column in zip(tiles, self.columns, strict=True)
            ]
            strips.append(torch.cat(features, 2))
        return torch.cat(strips, 1)

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the extractor, and the tiles."""
        return {**super().fingerprint(), "tile": list(self.tile), "tile_overlap": self.overlap}
