import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import Tensor

from moleflow_pl import MoLEFlow
from moleflow_pl._internal.schema import SCHEMA
from moleflow_pl.data.images import read_image
from moleflow_pl.errors import ExportError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.runtimes import (
    OUTPUTS,
    Answers,
    answers,
    check_packages,
    describe,
    difference,
    moved_by_rounding,
    open_file,
    require_sums,
    sums_of,
    verify,
    write,
    write_sums,
)
from tests.helpers.models import TINY_MODEL, fit, images_between, look_right, some_tasks
from tests.helpers.products import draw_product
from tests.helpers.shared import built_once

MODELS = {
    "vit": {"layers": [0, 1], "image_size": [48, 64]},
    "vit with registers": {
        "backbone": "vit_small_patch14_reg4_dinov2", "layers": [0, 1], "image_size": [28, 42],
    },
    "vit, latents kept": {
        "layers": [[0], [1]], "image_size": [48, 112], "score": ["depths", "groups"],
    },
    "tiled cnn": {
        "backbone": "test_efficientnet", "layers": [1, 2], "image_size": [64, 96], "smooth": 3,
        "grid": 4, "tile": 64, "tile_overlap": 32, "router": "mahalanobis",
        "adapter": "film", "score": "bank", "prototype": "mean",
        "image_score": "quantile", "image_quantile": 0.99,
    },
}  # fmt: skip
REGIONS = {"vit": (1,), "tiled cnn": (0, 2)}  # tasks that have a region of interest
TOLERANCE = 1e-4


class Exported:
    """A model, its graph and what was made of it."""

    def __init__(self, where: Path, kind: str) -> None:
        torch.manual_seed(0)
        model = some_tasks(MoLEFlow(**{**TINY_MODEL, **MODELS[kind]}), 3)
        look_right(model, *REGIONS.get(kind, ()))
        self.images, self.model = images_between(model), model.inspector
        self.graph = InspectionGraph(self.model, map_size=48)
        self.expected = answers(self.model, self.images, self.graph)
        self.onnx, self.program = where / "m.onnx", where / "m.pt2"
        self.about = describe(self.graph, self.model.schedule)
        if not self.onnx.exists():
            write(self.graph, self.onnx, "onnx", self.about)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Each of `MODELS`, exported once."""
    return cache(
        lambda kind: built_once(tmp_path_factory, f"export {kind}", partial(Exported, kind=kind))
    )


@pytest.fixture(
    params=[
        pytest.param(kind, marks=[] if kind == "vit" else [pytest.mark.slow]) for kind in MODELS
    ]
)
def exported(request: pytest.FixtureRequest, exports: Callable[[str], Exported]) -> Exported:
    return exports(request.param)


@pytest.fixture
def vit(exports: Callable[[str], Exported]) -> Exported:
    return exports("vit")


def check(found: Answers, expected: Answers) -> None:
    """The same products, and numbers that are apart by no more than the tolerance of them."""
    assert torch.equal(found["product"], expected["product"])
    assert len(expected["product"].unique()) == 2 or len(expected["product"]) == 1
    for name in ("score", "distance", "novelty"):
        torch.testing.assert_close(found[name], expected[name], rtol=TOLERANCE, atol=0)
    assert expected["novelty"].isfinite().all()
    scale = expected["map"].abs().max().item()
    torch.testing.assert_close(found["map"], expected["map"], rtol=0, atol=TOLERANCE * scale)


def test_onnxruntime_says_what_torch_says_for_any_batch(exported: Exported) -> None:
    run = open_file(exported.onnx, "onnx")
    for rows in (slice(None), slice(0, 1), slice(5, 8)):
        part = {key: value[rows] for key, value in exported.expected.items()}
        check(run(exported.images[rows]), part)


def test_openvino_reads_the_same_file_and_says_the_same(exported: Exported) -> None:
    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # its own choice is bfloat16 where a CPU has it
    compiled = openvino.Core().compile_model(exported.onnx, "CPU", hint)
    for rows in (slice(None), slice(5, 8)):
        results = compiled(exported.images[rows].numpy())
        found = {name: torch.from_numpy(np.array(results[name])) for name in OUTPUTS}
        part = {key: value[rows] for key, value in exported.expected.items()}
        check(found, part)


@pytest.mark.slow  # `test_pipeline.py` verifies a model that torch has exported
def test_torch_export_says_the_same_and_says_what_it_is(
    exports: Callable[[str], Exported],
) -> None:
    exported = exports("tiled cnn")
    write(exported.graph, exported.program, "torch", exported.about)
    run = open_file(exported.program, "torch")
    for rows in (slice(None), slice(0, 1)):
        part = {key: value[rows] for key, value in exported.expected.items()}
        check(run(exported.images[rows]), part)
    extra = {"moleflow.json": ""}
    torch.export.load(exported.program, extra_files=extra)
    assert json.loads(extra["moleflow.json"]) == exported.about


def test_an_onnx_file_says_what_it_is(vit: Exported) -> None:
    model = onnx.load(vit.onnx)
    onnx.checker.check_model(model)
    about = json.loads({p.key: p.value for p in model.metadata_props}["moleflow"])
    assert about["schema"] == SCHEMA
    assert about["products"] == ["p0", "p1", "p2"]
    found = vit.model.schedule.tasks[1].calibration
    assert found is not None
    assert about["thresholds"][1] == {
        "score": found.score_threshold.value, "pixel": found.pixel_threshold,
        "false_alarm_rate": 0.01, "images": 3, "extrapolated": True,
    }  # fmt: skip
    assert about["thresholds"][2] is None
    found.products = ["p1", "x", "p1"]
    (own,) = describe(InspectionGraph(vit.model, [1]), vit.model.schedule, "x")["thresholds"]
    assert own["score"] == 2.0  # of the one image that shows it
    found.products = []
    assert about["image_size"] == [48, 64]
    image = model.graph.input[0]
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    sides = [side.dim_value for side in image.type.tensor_type.shape.dim]
    assert sides == [0, 3, 48, 64]
    assert tuple(output.name for output in model.graph.output) == OUTPUTS


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, r"\['model.onnx'\] is not what"),
        (
            lambda path: flip(path.with_name("model.onnx.data")),
            r"\['model.onnx.data'\] is not what",
        ),
        (lambda path: path.with_name("model.onnx.data").unlink(), "cannot be checked"),
        (lambda path: sums_of(path).unlink(), "cannot be checked by model.onnx.sha256"),
        (lambda path: sums_of(path).write_text(""), "model.onnx is not what"),
        (lambda path: sums_of(path).write_text("x"), "cannot be checked"),
        (lambda path: flip(sums_of(path)), "is not what|cannot be checked"),
    ],
)
def test_exported_file_that_is_not_as_it_was_written_is_refused(
    change: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph" * 9)
    path.with_name("model.onnx.data").write_bytes(b"weights" * 9)
    write_sums(path)
    require_sums(path)
    change(path)
    with pytest.raises(ExportError, match=said):
        open_file(path, "onnx")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    write_sums(tmp_path / "model.onnx")
    command = ["sha256sum", "-c", "model.onnx.sha256"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    flip(tmp_path / "model.onnx")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_a_file_that_agrees_is_verified_with_its_differences(vit: Exported) -> None:
    found = verify(open_file(vit.onnx, "onnx"), vit.model, vit.graph, vit.images, TOLERANCE)
    assert set(found) == {"map", "score", "distance", "novelty", "experts"}
    assert all(0 <= value <= TOLERANCE for value in found.values())
    with pytest.raises(ExportError, match=r"differs from the model by .*more than --tolerance 0"):
        verify(open_file(vit.onnx, "onnx"), vit.model, vit.graph, vit.images, 0.0)


def test_a_file_of_another_model_is_found_out(vit: Exported) -> None:
    run = open_file(vit.onnx, "onnx")

    def broken(change: str) -> str:
        def run_broken(images: Tensor) -> Answers:
            found = run(images)
            value = 1 - found[change] if change == "product" else found[change] * 1.001
            return {**found, change: value}

        with pytest.raises(ExportError) as error:
            verify(run_broken, vit.model, vit.graph, vit.images, TOLERANCE)
        assert "badly conditioned" not in str(error.value)
        return str(error.value)

    for name in ("map", "score", "distance", "novelty"):
        assert f"'{name}': 0.001" in broken(name) or f"'{name}': 0.000" in broken(name)
    assert "are assigned to another product" in broken("product")
    # no image of the trial goes to the third expert, and yet it is looked at
    spoilt = copy.deepcopy(vit.graph)
    spoilt.flow.flow[0].subnet.layer2.bias[2] += 0.1
    with pytest.raises(ExportError, match=r"\{'experts': "):
        verify(run, vit.model, spoilt, vit.images, TOLERANCE)


def test_a_model_that_blows_rounding_up_is_refused_with_the_cause_and_the_options() -> None:
    torch.manual_seed(0)
    built = some_tasks(MoLEFlow(**{**TINY_MODEL, "coupling_layers": 8}), 2)
    images, model = images_between(built), built.inspector
    for task in (0, 1):  # all patches are far from what was learned
        model.flow.adapter_of(task).whitening.mul_(10)
    graph = InspectionGraph(model, map_size=48)

    def rounded(images: Tensor) -> Answers:
        found = answers(model, images, graph)
        return {**found, "score": found["score"] * 1.0002}

    with pytest.raises(ExportError) as error:
        verify(rounded, model, graph, images, TOLERANCE)
    said = str(error.value)
    assert "'score': 0.0002" in said or "'score': 0.0001" in said
    assert "The model is badly conditioned: where features are rounded by 1e-06" in said
    assert "Lower model.clamp_alpha (1.9) and learn again" in said
    assert said.endswith("or allow it: --tolerance 0.001")
    assert verify(rounded, model, graph, images, 1e-3)["score"] < 1e-3


@pytest.mark.slow  # the fast one beside it has the same cause by another way
def test_a_smaller_clamp_conditions_what_few_images_and_epochs_leave(tmp_path: Path) -> None:
    for seed, name in enumerate(("01", "b")):
        draw_product(tmp_path / "data", name, seed, train=12)
    paths = sorted((tmp_path / "data").glob("*/test/*/*.png"))
    images = torch.stack([read_image(path, (48, 48)) for path in paths])
    change = {}
    for clamp in (1.9, 0.5):
        options = {"coupling_layers": 8, "lora_rank": 4, "clamp_alpha": clamp}
        run = tmp_path / f"run {clamp}"
        model = fit(run, tmp_path / "data", ["01", "b"], model=options, callbacks=[]).inspector
        graph = InspectionGraph(model.eval())
        expected = answers(model, images, graph)
        found = moved_by_rounding(model, model.extractor(images), graph, expected)
        change[clamp] = found.max().item()
    assert change[0.5] < 1e-5
    assert change[1.9] > 5 * change[0.5]


def test_nan_values_do_not_pass() -> None:
    one = {
        "map": torch.ones(1, 2, 2), "score": torch.ones(1), "distance": torch.ones(1),
        "product": torch.zeros(1, dtype=torch.long), "novelty": torch.ones(1),
    }  # fmt: skip
    found = difference({**one, "score": torch.tensor([float("nan")])}, one)
    assert not found["score"] <= TOLERANCE


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moleflow_pl.export.runtimes.ONNX_PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(ExportError, match=r"needs no_such_package: pip install 'moleflow\[export"):
        check_packages()
