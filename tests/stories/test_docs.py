"""What the documentation shows is run."""

import csv
import json
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import onnxruntime
import openvino
import pytest
import torch
import yaml
from jsonschema import ValidationError, validate
from nbclient import NotebookClient

from docs.diagrams import drawings
from docs.hooks import ABOVE, modules, on_page_markdown, pages
from moleflow_pl.cli.main import VERBS
from moleflow_pl.data.images import read_image
from tests.helpers.commands import ROOT, environment
from tests.helpers.exporting import pixels_of
from tests.helpers.shared import built_once
from tests.helpers.story import Story

NOTEBOOKS = ROOT / "docs" / "notebooks"
IMAGES = 6  # of each kind


def execute(name: str, where: Path, *args: str) -> str:
    """Run a notebook in a kernel and a folder of its own; what its cells print.

    Args:
        name: Its name.
        where: The folder.
        args: What a script of the same text would get.
    """
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py", fmt="py:percent")
    given = nbformat.v4.new_code_cell(f"import sys\nsys.argv = {['', *args]!r}")
    notebook.cells.insert(0, given)
    resources = {"metadata": {"path": str(where)}}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources)
    client.execute(env=environment({"PYTHONPATH": str(ROOT)}))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


class Quickstart:
    """The quickstart, run on real solar cells.

    Attributes:
        run: The run folder that it left.
        output: What it printed.
    """

    def __init__(self, where: Path) -> None:
        self.where, self.run = where, where / "tutorial" / "run"
        output = where / "output.txt"
        if not output.exists():
            output.write_text(execute("quickstart", where, f"--images={IMAGES}", "--epochs=2"))
        self.output = output.read_text()


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    return built_once(tmp_path_factory, "quickstart", Quickstart)


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["path"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_the_quickstart_runs_to_its_end(quickstart: Quickstart) -> None:
    assert quickstart.output.rstrip().endswith("report.html.")
    assert (quickstart.run / "report" / "report.html").is_file()
    files = sorted(path.name for path in (quickstart.run / "export").iterdir())
    assert files == ["moleflow.onnx", "moleflow.onnx.sha256"]


@pytest.mark.slow
def test_predicted_scores_of_real_images_are_those_of_the_test(quickstart: Quickstart) -> None:
    run = quickstart.run
    tested = rows(run / "report" / "scores.csv")
    predicted = rows(run / "predictions" / "predictions.csv")
    assert len(predicted) == 2 * IMAGES
    for path, row in predicted.items():
        assert float(row["score"]) == pytest.approx(float(tested[path]["score"]), rel=1e-5)


@pytest.mark.slow
def test_the_onnx_file_says_of_real_images_what_the_test_says(quickstart: Quickstart) -> None:
    run = quickstart.run
    tested = list(rows(run / "report" / "scores.csv").values())
    assert len(tested) == 4 * IMAGES
    file = run / "export" / "moleflow.onnx"
    session = onnxruntime.InferenceSession(file)
    about = json.loads(session.get_modelmeta().custom_metadata_map["moleflow"])
    where = quickstart.where
    small = torch.stack([read_image(where / r["path"], about["image_size"]) for r in tested])
    images = pixels_of(small).numpy()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", hint)
    for answers in (
        session.run(["score", "product", "router_distance"], {"image": images}),
        [np.array(compiled(images)[name]) for name in ("score", "product", "router_distance")],
    ):
        score, product, distance = answers
        assert [about["products"][place] for place in product] == [r["routed_task"] for r in tested]
        expected = [float(r["score"]) for r in tested]
        np.testing.assert_allclose(score, expected, rtol=1e-4)
        expected = [float(r["router_distance"]) for r in tested]
        np.testing.assert_allclose(distance, expected, rtol=1e-4)


@pytest.mark.slow
def test_the_report_s_numbers_are_read_with_pandas(quickstart: Quickstart) -> None:
    shown = execute("report_numbers", quickstart.where)
    summary = json.loads((quickstart.run / "report" / "summary.json").read_text())
    auroc = summary["metrics"]["image_auroc"]["routed"]
    assert re.search(rf"image_auroc +routed +{auroc[0]:.3f} +{auroc[1]:.3f}", shown)
    assert "asked for 1.0%: recall" in shown


@pytest.mark.slow
def test_onnxruntime_decides_as_predict_does(quickstart: Quickstart) -> None:
    shown = execute("deploy", quickstart.where)
    predicted = rows(quickstart.run / "predictions" / "predictions.csv")
    labels = {
        f"{Path(path).parent.name}/{Path(path).name}": row["label"]
        for path, row in predicted.items()
    }
    found = dict(re.findall(r"^(\S+/\S+\.png): .*, (\w+)$", shown, re.MULTILINE))
    assert len(found) == 8
    assert found == {name: labels[name] for name in found}


@pytest.mark.slow
def test_the_way_through_python_runs_to_its_end(tmp_path: Path) -> None:
    shown = execute("python_api", tmp_path, f"--images={IMAGES}", "--epochs=1")
    assert shown.rstrip().endswith("report.html.")
    assert "routed (in brackets: oracle)" in shown
    assert "Prediction('solar_" in shown
    assert (tmp_path / "python" / "defect.png").is_file()
    assert (tmp_path / "python" / "run" / "report" / "report.html").is_file()


def test_notebooks_use_verbs_and_names_that_exist() -> None:
    for path in NOTEBOOKS.glob("*.py"):
        text = path.read_text()
        compile(text, path.name, "exec")
        verbs = re.findall(r'^ *moleflow\(\s*"(\w+)"|"moleflow", "(\w+)"', text, re.MULTILINE)
        assert {one or other for one, other in verbs} <= set(VERBS)
        found = re.findall(r"^from (moleflow_pl[\w.]*) import (.+)$", text, re.MULTILINE)
        for module, names in found:
            assert all(hasattr(import_module(module), name) for name in names.split(", ")), module


def test_every_public_module_has_one_page_in_the_api() -> None:
    names = list(modules())
    assert len(names) == len(set(names))
    files = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for path in (ROOT / "moleflow_pl").rglob("*.py")
    }
    public = {name for name in files if not name.startswith("moleflow_pl._internal")}
    assert set(names) | {"moleflow_pl"} == public - {"moleflow_pl.configs"}


def test_the_site_s_navigation_names_every_page_once() -> None:
    docs = ROOT / "docs"
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"([\w/]+\.md)$", navigation, re.MULTILINE)
    made = {name for name, _ in pages() if name.endswith(".md")}
    written = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    without = {name for name in made if name.startswith("reference/python/moleflow_pl")}
    assert sorted(named) == sorted((written | made) - without)


def test_the_page_of_the_command_line_names_every_verb_and_group_of_options() -> None:
    page = dict(pages())["reference/cli.md"]
    assert all(f"## moleflow {verb}" in page for verb in VERBS)
    assert "| `--model.lora_rank` | `32` |" in page
    assert "| `--false-alarm-rate` |" in page
    assert "### moleflow experts rollback" in page
    assert "moleflow experts rename RUN NAME NEW_NAME [options]" in page
    assert "| `--key-file FILE` |" in page
    assert "|  |\n" not in page, "an option without a meaning"


def test_a_run_s_summary_is_what_its_json_schema_says(story: Story) -> None:
    schema = json.loads((ROOT / "docs" / "reference" / "summary.schema.json").read_text())
    validate(story.summary, schema)
    with pytest.raises(ValidationError, match="Additional properties are not allowed"):
        validate({**story.summary, "new": 1}, schema)


def test_diagrams_are_those_that_the_script_draws() -> None:
    for path, text in drawings():
        assert path.read_text(encoding="utf-8") == text, "run python docs/diagrams.py"


def test_the_site_s_switch_chooses_between_a_picture_s_colours() -> None:
    source = '<source media="(prefers-color-scheme: dark)" srcset="a-dark.svg">'
    shown = on_page_markdown(
        f'Words.\n<picture>{source}<img alt="A box" src="a-light.svg"></picture>'
    )
    assert shown == (
        'Words.\n<picture><img alt="A box" src="a-light.svg#only-light"></picture>'
        '<picture><img alt="A box" src="a-dark.svg#only-dark"></picture>'
    )


def test_systemd_takes_the_unit_of_the_service() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd")
    unit = ROOT / "docs" / "moleflow.service"
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, unit.name in told.stderr) == (0, False), told.stderr
    assert "moleflow serve" in unit.read_text()


def anchors(path: Path) -> set[str]:
    """What a link may name after `#` in a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_links_above_the_site_lead_to_files_and_headings_that_exist() -> None:
    for name in ("README.md", *ABOVE.values()):
        text = (ROOT / name).read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text)
        assert len(links) == len(re.findall(r"\]\((?!http)", text)), name
        for file, anchor in links:
            target = ROOT / (file or name)
            assert target.exists(), f"{name}: {file}"
            assert not anchor or anchor in anchors(target), f"{name}: {file}#{anchor}"


def test_the_readme_fits_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("form", ["bug", "idea", "result"])
def test_an_issue_form_is_one_that_github_takes(form: str) -> None:
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content.keys() == {"name", "description", "body"}
    asked = [part for part in content["body"] if part["type"] != "markdown"]
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in asked)
    assert len({part["id"] for part in asked}) == len(asked)
    assert any(part.get("validations", {}).get("required") for part in asked)
