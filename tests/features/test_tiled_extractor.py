from itertools import pairwise

import pytest
import timm
import torch
from packaging.version import Version
from timm.models.pit import PoolingVisionTransformer
from torch import Tensor, nn

from moleflow_pl import MoLEFlow
from moleflow_pl.errors import ConfigError
from moleflow_pl.features.extractor import PatchExtractor
from moleflow_pl.features.tiled_extractor import TiledExtractor, spans

LOCAL = "test_resnet"  # convolutions and pooling alone
STRIDE = 8
REACH = 4  # cells that the net sees on either side, measured below


def local(image_size: object, **tiling: object) -> PatchExtractor:
    """An extractor on a net that sees a cell's surroundings alone."""
    kind = TiledExtractor if tiling else PatchExtractor
    return awake(kind(LOCAL, [2], image_size, "random", **tiling))


def awake(extractor: PatchExtractor) -> PatchExtractor:
    """Without the zeros that switch off the residual branches of a net no one has trained."""
    for module in extractor.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return extractor


def differ(a: Tensor, b: Tensor) -> Tensor:
    """Cells (h, w) in which features (1, h, w, D) differ by more than rounding."""
    return ((a - b).abs() > 1e-5 * b.abs().max()).any(-1)[0]


def test_the_net_reaches_as_far_as_the_tests_below_say() -> None:
    extractor, image, seam = local(256), torch.rand(1, 3, 256, 256), 128 // STRIDE
    reaches = []
    for half in (slice(128), slice(128, None)):
        other = image.clone()
        other[..., half] = torch.rand(1, 3, 256, 128)
        changed = differ(extractor(other), extractor(image)).any(0).nonzero().flatten()
        reaches += [seam - changed.min().item(), changed.max().item() + 1 - seam]
    assert max(r for r in reaches if r < seam) == REACH


def test_tiled_equals_untiled_where_tiles_share_what_the_net_sees() -> None:
    image = torch.rand(1, 3, 160, 256)
    tiled = local([160, 256], tile=128, overlap=2 * REACH * STRIDE)
    assert not differ(tiled(image), local([160, 256])(image)).any()


def test_tiled_differs_from_untiled_at_seams_alone() -> None:
    image = torch.rand(1, 3, 128, 256)
    tiled = local([128, 256], tile=128, overlap=0)
    columns = differ(tiled(image), local([128, 256])(image)).any(0).nonzero().flatten()
    seam = 128 // STRIDE
    assert columns.min().item() >= seam - REACH
    assert columns.max().item() < seam + REACH
    assert len(columns) > 0


def test_levels_smoothing_and_grid_tile_as_well() -> None:
    options = {"weights": "random", "smooth": 3}
    image = torch.rand(1, 3, 256, 256)
    untiled = awake(PatchExtractor(LOCAL, [1, 2], 256, grid=16, **options))
    tiled = awake(TiledExtractor(LOCAL, [1, 2], 256, grid=12, tile=192, overlap=128, **options))
    assert not differ(tiled(image), untiled(image)).any()


def test_the_demos_backbone_has_no_seam_where_tiles_share_384_pixels() -> None:
    name, options = "tf_efficientnet_lite0", {"weights": "random", "smooth": 3}
    for shared, seams in ((384, False), (256, True)):
        size = [512, 1024 - shared]
        image = torch.rand(1, 3, *size)
        untiled = PatchExtractor(name, [2, 3], size, grid=[32, size[1] // 16], **options)
        tiled = TiledExtractor(name, [2, 3], size, grid=32, tile=512, overlap=shared, **options)
        assert differ(tiled(image), untiled(image)).any().item() == seams


def test_a_vit_gives_the_features_of_each_tile_as_an_image_of_its_own() -> None:
    tiled = TiledExtractor("test_vit", [0, 1], [64, 96], "random", tile=[64, 48], overlap=0)
    alone = PatchExtractor("test_vit", [0, 1], [64, 48], "random")
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    expected = torch.cat([alone(image[..., :48]), alone(image[..., 48:])], 2)
    torch.testing.assert_close(tiled(image), expected)


@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_tiles_keep_every_cell_once_and_from_where_it_lies_deepest(overlap: int) -> None:
    tile, cell = 64, 8
    for length in range(64, 256, 8):
        cells = []
        found = spans(length, tile, overlap, cell, 8)
        for span in found:
            assert 0 <= span.start <= length - tile
            first = span.start // cell
            cells += range(first + span.cells.start, first + span.cells.stop)
        assert cells == list(range(length // cell))
        for left, right in pairwise(found):
            shared = left.start + tile - right.start
            assert shared >= overlap
            assert abs((tile - left.cells.stop * cell) - right.cells.start * cell) <= cell


def test_the_map_of_a_tiled_model_equals_the_untiled_away_from_seams() -> None:
    options = {
        "backbone": LOCAL, "layers": [2], "image_size": [128, 256], "backbone_weights": "random",
        "coupling_layers": 2, "lora_rank": 2, "score": "norm",
    }  # fmt: skip
    untiled = MoLEFlow(**options)
    tiled = MoLEFlow(**options, tile=128, tile_overlap=0)
    for model in (untiled, tiled):
        awake(model.inspector.extractor)
        model.inspector.flow.add_task(0)
    tiled.load_state_dict(untiled.state_dict())
    image = torch.rand(1, 3, 128, 256)
    inspectors = [model.inspector for model in (tiled, untiled)]
    maps = [one.patch_scores(one.extractor(image), 0) for one in inspectors]
    away = torch.ones(maps[0].shape[-1], dtype=torch.bool)
    away[128 // STRIDE - REACH : 128 // STRIDE + REACH] = False
    torch.testing.assert_close(maps[0][..., away], maps[1][..., away], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(maps[0][..., ~away], maps[1][..., ~away], rtol=1e-4, atol=1e-4)


def test_tiles_are_part_of_what_an_expert_depends_on() -> None:
    prints = [
        local(256).fingerprint(),
        local(256, tile=128, overlap=0).fingerprint(),
        local(256, tile=128, overlap=64).fingerprint(),
    ]
    assert len({str(one) for one in prints}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 124}, r"tile height 124 .* choose a multiple of 8"),
        ({"tile": [128, 320]}, r"image width 256 .* tiles of 320.* nearest sizes that fit are 320"),
        ({"image_size": [250, 256]}, "image height 250 .* nearest sizes that fit are 248 and 256"),
        ({"overlap": 128}, "tile_overlap 128 .* at most 120"),
        ({"overlap": -1}, "tile_overlap must be an integer from 0"),
        ({"grid": 10}, "a grid that divides it"),
    ],
)
def test_tiles_that_cannot_be_are_refused_in_words(options: dict, message: str) -> None:
    settings = {"image_size": 256, "tile": 128, "overlap": 0, **options}
    with pytest.raises(ConfigError, match=message):
        TiledExtractor(LOCAL, [2], weights="random", **settings)


@pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.31")
    and not hasattr(PoolingVisionTransformer, "forward_intermediates"),
    reason="this older timm has no maps of a backbone whose cells overlap",
)
def test_backbone_whose_cells_overlap_cannot_be_tiled() -> None:
    extractor = TiledExtractor("pit_xs_224", [0], 96, "random", tile=64, overlap=32)
    with pytest.raises(ConfigError, match=r"layer 0 of pit_xs_224 has \[7, 7\] cells.* \[8, 8\]"):
        extractor(torch.zeros(1, 3, 96, 96))
