import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
from packaging.version import Version
from safetensors.torch import save_file

from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.features import backbone
from moleflow_pl.features.backbone import load_in_order
from moleflow_pl.features.extractor import PatchExtractor
from tests.helpers.checkpoints import Bomb


def test_weights_that_need_a_network_are_refused_at_once_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise URLError("Name or service not known")

    def download(*args: object, **options: object) -> None:
        raise AssertionError("its client would try for a minute")

    monkeypatch.setattr(backbone, "urlopen", unreachable)
    monkeypatch.setattr(backbone, "cached_weights", lambda name: None)
    monkeypatch.setattr("timm.create_model", download)
    with pytest.raises(ConfigError) as error:
        vit(image_size=48, weights="pretrained")
    said = str(error.value)
    assert "weights of test_vit cannot be downloaded (Name or service not known)" in said
    assert "--model.backbone_weights" in said
    assert "--config demo" in said
    assert len(said.splitlines()) == 1


def test_weights_that_were_downloaded_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    source = timm.create_model("test_vit", pretrained=False).state_dict()
    save_file(source, path)
    asked = []

    def cached(repository: str, name: str, revision: str | None) -> str | None:
        asked.append(name)
        return str(path) if name == path.name else None

    monkeypatch.setattr(backbone, "try_to_load_from_cache", cached)
    monkeypatch.setattr(backbone, "urlopen", None)
    extractor = vit(image_size=160, weights="pretrained")
    assert asked == [path.name]
    for key, tensor in extractor.backbone.state_dict().items():
        assert torch.equal(tensor, source[key])


def test_presets_that_come_with_weights_are_named() -> None:
    configs = Path(__file__).parents[2] / "configs"
    carriers = [path.stem for path in configs.glob("*.yaml") if "package:" in path.read_text()]
    assert list(backbone.PACKAGED_PRESETS) == carriers


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_are_loaded(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(7)
    source = timm.create_model("test_vit", pretrained=False).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(source, path)
    else:
        save_file(source, path)
    state = torch.random.get_rng_state()
    extractor = vit(image_size=160, weights=str(path))
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing is drawn to be replaced
    for key, tensor in extractor.backbone.state_dict().items():
        assert torch.equal(tensor, source[key])


def test_position_embeddings_are_resampled_to_another_grid(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    assert vit(image_size=48, weights=str(path)).backbone.pos_embed.shape[1] == 1 + 9


def test_weights_of_a_package_are_loaded_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = timm.create_model("test_vit", pretrained=False, img_size=48).state_dict()
    package = tmp_path / "carrier"
    package.mkdir()
    (package / "__init__.py").touch()
    torch.save({f"other.{i}": t for i, t in enumerate(source.values())}, package / "w.pth")
    monkeypatch.syspath_prepend(tmp_path)
    extractor = vit(weights="package:carrier")
    assert "carrier" not in sys.modules  # found, not imported
    for key, tensor in extractor.backbone.state_dict().items():
        assert torch.equal(tensor, source[key])


DAMAGES = {
    "junk": lambda content: b"junk\n",
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("package", [False, True], ids=["file", "package"])
def test_damaged_weights_are_an_error_of_one_sentence(
    package: bool, suffix: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "carrier" / f"w{suffix}"
    path.parent.mkdir()
    (path.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    source = timm.create_model("test_vit", pretrained=False).state_dict()
    (torch.save if suffix == ".pth" else save_file)(source, path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError) as error:
        vit(image_size=48, weights="package:carrier" if package else str(path))
    said = str(error.value)
    assert said.startswith(f"the weights {path} cannot be used: it is damaged, or holds more than")
    assert "give an undamaged .safetensors or .pth file as --model.backbone_weights" in said
    assert len(said.splitlines()) == 1


def test_damaged_download_is_to_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(backbone, "cached_weights", lambda name: tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors .*delete it to download it again"):
        vit(image_size=48, weights="pretrained")


@pytest.mark.parametrize("content", [{"a": torch.zeros(1)}, [torch.zeros(1)], 3, {"a": 3}])
def test_weights_that_do_not_fit_are_named_with_the_backbone(
    content: object, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"weights .*w.pth do not fit test_vit \(") as error:
        vit(image_size=48, weights=str(tmp_path / "w.pth"))
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="does not hold"):
        load_in_order(timm.create_model("test_vit"), tmp_path / "w.pth")


def test_unknown_backbone_is_answered_with_names_like_it() -> None:
    with pytest.raises(ConfigError, match="vit_small_patch14_dinov2"):
        PatchExtractor("vit_small_patch14_dino", weights="random")


@pytest.mark.parametrize("name", ["evil.pth", "package:evil_package"])
def test_weights_run_no_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = tmp_path / "touched"
    package = tmp_path / "evil_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(touched)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    for path in (tmp_path / "evil.pth", package / "w.pth"):
        torch.save({"w": Bomb(touched)}, path)
    with pytest.raises(CheckpointError, match="cannot be used: it is damaged, or holds more"):
        vit(weights=name if name.startswith("package:") else str(tmp_path / name))
    assert not touched.exists()


def vit(**options: object) -> PatchExtractor:
    settings = {"layers": [0, 1], "image_size": 48, "weights": "random", **options}
    return PatchExtractor("test_vit", **settings)


# the smallest of families whose models are no plain ViTs and no plain convolutional nets
FAMILIES = {
    "maxvit": ("maxvit_rmlp_pico_rw_256", [1, 2], 64),
    "coatnet": ("coatnet_pico_rw_224", [1, 2], 64),
    "mixer": ("mixer_s32_224", [1, 2], 64),
    "levit": ("levit_128s", [0, 1], 64),
    "hiera": ("hiera_tiny_224", [1, 2], 64),
    "volo": ("volo_d1_224", [0, 1], 64),
    "convmixer": ("convmixer_768_32", [1, 2], 63),
    "swin": ("swin_tiny_patch4_window7_224", [1, 2], 64),
    "swin v2": ("swinv2_cr_tiny_224", [0, 1], 64),
    "cait": ("cait_xxs24_224", [1, 2], 64),
    "deit with a distillation token": ("deit_tiny_distilled_patch16_224", [1, 2], 64),
    "xcit": ("xcit_nano_12_p16_224", [1, 2], 64),
    "pit": ("pit_xs_224", [0, 1], 64),
    "mvit": ("mvitv2_tiny", [0, 1], 64),
    "vit with registers": ("vit_small_patch14_reg4_dinov2", [1, 2], 56),
}
HAS_MAPS = Version("1.0.31")  # of all these kinds; from it on, nothing is skipped
FAST = ("levit", "xcit", "deit with a distillation token", "pit")


def of_this_timm(name: str, layers: list[int], side: int) -> PatchExtractor:
    """An extractor; the test is skipped where an older timm has no maps of its backbone."""
    try:
        return PatchExtractor(name, layers, side, weights="random")
    except ConfigError as error:
        without_maps = f"timm {timm.__version__} has no feature maps of {name}" in str(error)
        if without_maps and Version(timm.__version__) < HAS_MAPS:
            pytest.skip(str(error))
        raise


def test_backbone_of_which_this_timm_has_no_maps_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(type(vit().backbone), "forward_intermediates")
    with pytest.raises(
        ConfigError, match=r"no feature maps of test_vit .*install a newer timm, or"
    ):
        vit()


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f in FAST else [pytest.mark.slow]) for f in FAMILIES]
)
def test_every_kind_of_backbone_gives_maps_in_which_places_stay_places(family: str) -> None:
    name, layers, side = FAMILIES[family]
    extractor = of_this_timm(name, layers, side)
    torch.manual_seed(0)
    image = torch.rand(1, 3, side, side)
    features = extractor(image)
    widths = [extractor.backbone.feature_info[layer]["num_chs"] for layer in layers]
    assert features.shape[-1] == extractor.dim
    assert extractor.dim == (widths[0] if extractor.averaged else sum(widths))
    image[:, :, : side // 4, -side // 4 :] = 1 - image[:, :, : side // 4, -side // 4 :]
    change = (extractor(image) - features).square().sum(-1)[0]
    height, width = change.shape
    row, column = divmod(int(change.argmax()), width)
    assert row < height / 2 <= width / 2 <= column


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("levit_128s", 50, r"timm fails .*its own image_size, 224 x 224, multiples of 64, or"),
        ("xcit_nano_12_p16_224", 50, r"timm cannot build it .*its own image_size, 224 x 224, or"),
        ("pit_xs_224", 50, "of the 16 x 16 patches.*height 48 or 64"),
        pytest.param("mixer_s32_224", 50, "height 32 or 64", marks=pytest.mark.slow),
        pytest.param("convmixer_768_32", 64, "height 63 or 70", marks=pytest.mark.slow),
        pytest.param("maxvit_rmlp_pico_rw_256", 50, "timm fails", marks=pytest.mark.slow),
        pytest.param("crossvit_tiny_240", 64, "timm fails", marks=pytest.mark.slow),
        pytest.param("hiera_tiny_224", 50, "timm fails", marks=pytest.mark.slow),
    ],
)
def test_a_size_without_maps_is_refused_with_those_that_fit(
    name: str, side: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        of_this_timm(name, [0, 1], side)(torch.rand(1, 3, side, side))


def test_levels_that_are_no_maps_are_refused_by_the_models_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extractor = vit()
    monkeypatch.setattr(
        extractor.backbone, "forward_intermediates", lambda *_, **__: [torch.rand(1, 9, 64)] * 2
    )
    with pytest.raises(ConfigError, match=r"test_vit .* layer 0 gives .*, no map of 64 channels"):
        extractor(torch.rand(1, 3, 48, 48))


def test_a_lack_of_memory_is_no_fault_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("can't allocate memory")

    extractor = vit()
    monkeypatch.setattr(extractor.backbone, "forward_intermediates", fail)
    with pytest.raises(RuntimeError, match="allocate"):
        extractor(torch.rand(1, 3, 48, 48))
