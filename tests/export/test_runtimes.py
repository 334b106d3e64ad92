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
from jsonschema import validate

from moleflow_pl._internal.schema import SCHEMA
from moleflow_pl.errors import ExportError
from moleflow_pl.export.graph import LABELS, InspectionGraph
from moleflow_pl.export.runtimes import (
    OUTPUTS,
    Answers,
    check_packages,
    describe,
    open_file,
    require_sums,
    sums_of,
    write,
    write_sums,
)
from tests.helpers.commands import ROOT
from tests.helpers.exporting import MODELS, TOLERANCE, Exported, exported_once, pixels_of


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Each of `MODELS`, exported once."""
    return cache(partial(exported_once, tmp_path_factory))


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
    for name in ("score", "router_distance", "novelty_ratio"):
        torch.testing.assert_close(found[name], expected[name], rtol=TOLERANCE, atol=0)
    assert expected["novelty_ratio"].isfinite().all()
    scale = expected["map"].abs().max().item()
    torch.testing.assert_close(found["map"], expected["map"], rtol=0, atol=TOLERANCE * scale)


def test_onnxruntime_says_what_torch_says_for_any_batch(exported: Exported) -> None:
    run = open_file(exported.onnx, "onnx")
    for rows in (slice(None), slice(0, 1), slice(5, 8)):
        part = {key: value[rows] for key, value in exported.expected.items()}
        check(run(pixels_of(exported.images[rows])), part)


def test_openvino_reads_the_same_file_and_says_the_same(exported: Exported) -> None:
    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # its own choice is bfloat16 where a CPU has it
    compiled = openvino.Core().compile_model(exported.onnx, "CPU", hint)
    for rows in (slice(None), slice(5, 8)):
        results = compiled(pixels_of(exported.images[rows]).numpy())
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
        check(run(pixels_of(exported.images[rows])), part)
    extra = {"moleflow.json": ""}
    torch.export.load(exported.program, extra_files=extra)
    assert json.loads(extra["moleflow.json"]) == exported.about


def test_an_onnx_file_says_what_it_is(vit: Exported) -> None:
    model = onnx.load(vit.onnx)
    onnx.checker.check_model(model)
    about = json.loads({p.key: p.value for p in model.metadata_props}["moleflow"])
    validate(about, json.loads((ROOT / "docs" / "reference" / "export.schema.json").read_text()))
    assert about["schema"] == SCHEMA
    assert about["products"] == ["p0", "p1", "p2"]
    plain = {p.key: p.value for p in model.metadata_props}
    assert plain["moleflow.products"] == "p0\np1\np2"
    assert plain["moleflow.labels"].splitlines() == list(LABELS) == about["labels"]
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
    assert sides == [0, 0, 0, 3]
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


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moleflow_pl.export.runtimes.ONNX_PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(ExportError, match=r"needs no_such_package: pip install 'moleflow\[export"):
        check_packages()
