import inspect
from pathlib import Path

import pytest
import timm

from benchmarks.harness.plans import CNN, VIT
from moleflow_pl import MoLEFlow
from moleflow_pl._internal.presets import preset_names
from moleflow_pl.data.layouts.registry import task_groups
from moleflow_pl.flow.spatial_nf import MoLESpatialAwareNF
from tests.helpers.models import SEED_METHOD
from tests.helpers.parsing import parse

PRESETS = preset_names()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_config_parses(preset: str) -> None:
    config = parse("fit", "--config", preset).config.fit
    assert config.trainer.default_root_dir == f"runs/{preset}"
    assert config.trainer.gradient_clip_val == 0.5
    assert timm.is_model(config.model.backbone)
    assert config.data.tasks


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "seed"])
def test_presets_are_what_the_accuracy_was_measured_of(preset: str) -> None:
    measured = CNN if preset == "demo" else VIT
    defaults = {k: p.default for k, p in inspect.signature(MoLEFlow).parameters.items()}
    options = defaults | dict(measured.arguments) | measured.method.model
    if measured == VIT:
        # a larger one of the kind, at the size that it was trained with
        options |= {"backbone": "vit_base_patch14_dinov2.lvd142m", "image_size": 518}
    model = parse("fit", "--config", preset).config.fit.model
    for name, value in options.items():
        if name != "optimizer":  # a function there, its description here
            assert model[name] in (value, as_list(value)), name


def as_list(value: object) -> object:
    """A sequence as YAML has it."""
    return list(value) if isinstance(value, tuple) else value


def test_all_documented_presets_exist() -> None:
    assert set(PRESETS) >= {
        "demo", "mvtec", "mvtec_pilot", "mvtec_14_1", "mvtec_10_5", "mvtec_3x5", "seed", "visa",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"), [("14_1", [14, 1]), ("10_5", [10, 5]), ("3x5", [3] * 5), ("", [1] * 15)]
)
def test_groups_of_mvtec_hold_its_products_in_order(name: str, sizes: list[int]) -> None:
    preset = f"mvtec_{name}" if name else "mvtec"
    groups = task_groups(parse("fit", "--config", preset).config.fit.data.tasks)
    assert [len(group) for group in groups] == sizes
    products = [product for group in groups for product in group]
    assert products == sorted(products)
    assert len(set(products)) == 15


def test_visa_has_its_twelve_products_and_its_own_layout() -> None:
    data = parse("fit", "--config", "visa").config.fit.data
    assert data.layout == "visa"
    assert len(set(data.tasks)) == 12


def test_seed_config_says_what_the_layers_default_to() -> None:
    model = parse("fit", "--config", "seed").config.fit.model
    for name, parameter in inspect.signature(MoLESpatialAwareNF).parameters.items():
        if name != "embed_dim":
            assert model[name] == parameter.default, name
    assert model.router == "mahalanobis"
    assert model.optimizer.init_args.lr == 1e-4


def test_seed_config_has_the_method_as_it_was_published() -> None:
    model = parse("fit", "--config", "seed").config.fit.model
    for name, value in SEED_METHOD.items():
        assert model[name] == value, name
    assert model.loss == "mean"


def test_product_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    names = "[01, [02, 3], pcb.1, 1.0, 2.10, no, null, +1, 1_0, 0x1f, 12:30]"
    expected = [
        "01",
        ["02", "3"],
        "pcb.1",
        "1.0",
        "2.10",
        "no",
        "null",
        "+1",
        "1_0",
        "0x1f",
        "12:30",
    ]
    for flag in (["--data.tasks", names], [f"--data.tasks={names}"]):
        assert parse("fit", *flag).config.fit.data.tasks == expected
    (tmp_path / "c.yaml").write_text(f"data:\n  tasks: {names}\nmodel:\n  lora_alpha: 1e-1\n")
    by_file = parse("fit", "--config", str(tmp_path / "c.yaml")).config.fit
    assert by_file.data.tasks == expected
    assert by_file.model.lora_alpha == 0.1


def test_own_folders_go_with_the_demo() -> None:
    flags = ["--data.root", "x", "--data.layout", "mvtec", "--data.tasks", "[a, b]"]
    config = parse("fit", "--config", "demo", *flags).config.fit
    assert (config.data.root, config.data.layout) == ("x", "mvtec")
    assert config.data.tasks == ["a", "b"]
    assert config.model.backbone == "tf_efficientnet_lite0"
