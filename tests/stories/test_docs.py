"""What the documentation shows is run."""

import csv
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from docs.api import build, modules
from moleflow_pl.cli.main import VERBS
from moleflow_pl.data.images import read_image
from tests.helpers.commands import ROOT
from tests.helpers.shared import built_once

IMAGES = 6  # of each kind


class Tutorial:
    """The tutorial, run in a fresh process on real solar cells.

    Attributes:
        run: The run folder that it left.
        output: What it printed.
    """

    def __init__(self, where: Path) -> None:
        self.where, self.run = where, where / "tutorial" / "run"
        output = where / "output.txt"
        if not output.exists():
            command = [sys.executable, ROOT / "docs" / "tutorial.py"]
            command += [f"--images={IMAGES}", "--epochs=2"]
            result = subprocess.run(
                [*map(str, command)], cwd=where, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
            output.write_text(result.stdout)
        self.output = output.read_text()


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    return built_once(tmp_path_factory, "tutorial", Tutorial)


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["path"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_the_tutorial_runs_to_its_end(tutorial: Tutorial) -> None:
    assert tutorial.output.rstrip().endswith("report.html.")
    assert (tutorial.run / "report" / "report.html").is_file()
    assert "verified on 16 images of the run" in tutorial.output
    files = sorted(path.name for path in (tutorial.run / "export").iterdir())
    assert files == ["moleflow.onnx", "moleflow.onnx.sha256"]


@pytest.mark.slow
def test_predicted_scores_of_real_images_are_those_of_the_test(tutorial: Tutorial) -> None:
    run = tutorial.run
    tested = rows(run / "report" / "scores.csv")
    predicted = rows(run / "predictions" / "predictions.csv")
    assert len(predicted) == 2 * IMAGES
    for path, row in predicted.items():
        assert float(row["score"]) == pytest.approx(float(tested[path]["score"]), rel=1e-5)


@pytest.mark.slow
def test_the_onnx_file_says_of_real_images_what_the_test_says(tutorial: Tutorial) -> None:
    run = tutorial.run
    tested = list(rows(run / "report" / "scores.csv").values())
    assert len(tested) == 4 * IMAGES
    file = run / "export" / "moleflow.onnx"
    session = onnxruntime.InferenceSession(file)
    about = json.loads(session.get_modelmeta().custom_metadata_map["moleflow"])
    where = tutorial.where
    images = torch.stack([read_image(where / r["path"], about["image_size"]) for r in tested])
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", hint)
    for answers in (
        session.run(["score", "product", "distance"], {"image": images.numpy()}),
        [np.array(compiled(images.numpy())[name]) for name in ("score", "product", "distance")],
    ):
        score, product, distance = answers
        assert [about["products"][place] for place in product] == [r["routed_task"] for r in tested]
        expected = [float(r["score"]) for r in tested]
        np.testing.assert_allclose(score, expected, rtol=1e-4)
        expected = [float(r["router_distance"]) for r in tested]
        np.testing.assert_allclose(distance, expected, rtol=1e-4)


@pytest.mark.slow
def test_the_way_through_python_runs_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "python.py"), f"--images={IMAGES}", "--epochs=1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert result.stdout.rstrip().endswith("report.html.")
    assert "Prediction('solar_" in result.stdout
    assert (tmp_path / "python" / "defect.png").is_file()
    assert (tmp_path / "python" / "run" / "report" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_pages_of_the_api_are_built_from_the_docstrings(tmp_path: Path) -> None:
    build(tmp_path)
    page = (tmp_path / "moleflow_pl" / "routing" / "router.html").read_text()
    assert "Chooses the task whose prototype is nearest" in page
    for package in ("moleflow_pl", "callbacks"):
        modules = {p.relative_to(ROOT).with_suffix("") for p in (ROOT / package).rglob("*.py")}
        pages = {p.relative_to(tmp_path).with_suffix("") for p in tmp_path.rglob("*.html")}
        assert {one for one in modules if one.name != "__init__"} <= pages


def test_the_tutorial_uses_verbs_that_exist() -> None:
    text = (ROOT / "docs" / "tutorial.py").read_text()
    compile(text, "tutorial.py", "exec")
    verbs = re.findall(r'^ *moleflow\(\s*"(\w+)"', text, re.MULTILINE)
    assert len(verbs) >= 3
    assert set(verbs) <= set(VERBS)


def test_the_way_through_python_uses_names_that_exist() -> None:
    text = (ROOT / "docs" / "python.py").read_text()
    compile(text, "python.py", "exec")
    for module, names in re.findall(r"^from (moleflow_pl[\w.]*) import (.+)$", text, re.MULTILINE):
        assert all(hasattr(import_module(module), name) for name in names.split(", ")), module


def test_every_module_has_one_page_in_the_api() -> None:
    names = list(modules())
    assert len(names) == len(set(names))
    assert {"moleflow_pl", "moleflow_pl.flow", "moleflow_pl.module"} <= set(names)
