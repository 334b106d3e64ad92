"""The walks of CONTRIBUTING.md: the code shown there adds a part from outside, which is used."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

import moleflow_pl.cli.lightning as cli
from moleflow_pl import MoLEFlow
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import ConfigError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.routing.router import ROUTERS
from moleflow_pl.scoring.patch_scores import PATCH_SCORES
from tests.helpers.commands import ROOT, environment
from tests.helpers.models import fit, with_tasks
from tests.helpers.products import SIZE, draw_product

Build = Callable[..., MoLEFlow]


def code_of(index: int) -> str:
    """The code of a walk in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    walks = re.findall(r"```python\n(.*?)```", text.partition("## Where to add what")[2], re.DOTALL)
    return walks[index]


def walk(index: int) -> None:
    """Run the code of a walk as it stands there, with no other names."""
    exec(code_of(index), {})


@pytest.fixture
def toy_score() -> Iterator[None]:
    walk(0)
    yield
    del PATCH_SCORES["largest"]


@pytest.fixture
def toy_layout() -> Iterator[None]:
    walk(1)
    yield
    del LAYOUTS["flat"]


@pytest.fixture
def toy_router() -> Iterator[None]:
    walk(2)
    yield
    del ROUTERS["farthest"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script outside this package with the three parts and the verb of the walks."""
    folder = tmp_path / "my_package"
    folder.mkdir()
    (folder / "count.py").write_text(code_of(3))
    for index, name in enumerate(("score", "layout", "router")):
        (folder / f"{name}.py").write_text(code_of(index))
    (tmp_path / "script.py").write_text(code_of(4))
    return tmp_path / "script.py"


def run_script(script: Path, *args: str) -> str:
    """What a script prints in a fresh process."""
    program = [sys.executable, str(script), *args]
    env = environment({"PYTHONPATH": str(ROOT)})
    return subprocess.run(program, env=env, capture_output=True, text=True, check=True).stdout


@torch.no_grad()
@pytest.mark.usefixtures("toy_score")
def test_patch_score_from_outside_scores_in_the_model_and_in_an_exported_graph(
    tiny_model: Build,
) -> None:
    model = with_tasks(tiny_model(score="largest"))
    images = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    found = model(images)
    inspector = model.inspector
    features = inspector.position(inspector.joined(inspector.extractor(images)))
    for image, task in enumerate(found.task.tolist()):
        latent, _ = model.inspector.flow(features[image : image + 1], task)
        expected = latent.abs().max(-1).values[0]
        torch.testing.assert_close(found.patch_scores[image], expected, rtol=1e-4, atol=1e-4)
    _, score, product, _, _ = InspectionGraph(model.inspector)(images)
    torch.testing.assert_close(score, found.score, rtol=1e-4, atol=1e-4)
    assert product.tolist() == found.task.tolist()


@torch.no_grad()
@pytest.mark.usefixtures("toy_router")
def test_router_from_outside_picks_the_expert(tiny_model: Build) -> None:
    model = with_tasks(tiny_model(router="farthest"))
    found = model(torch.rand(4, 3, SIZE, SIZE))
    assert found.task.tolist() == found.distances.argmax(1).tolist()
    expected = model.inspector.inspect(model.inspector.extractor(torch.zeros(1, 3, SIZE, SIZE)))
    assert expected.task.item() == expected.distances.argmax().item()


class SeenImages(Callback):
    """Names of the images in training batches."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.names |= {Path(path).name for path in batch["path"]}


@pytest.mark.usefixtures("toy_layout")
def test_layout_from_outside_gives_batches(tmp_path: Path) -> None:
    draw_product(tmp_path, "drawn", 0)
    (tmp_path / "flat").mkdir()
    (tmp_path / "drawn" / "train" / "good").rename(tmp_path / "flat" / "bottle")
    seen = SeenImages()
    data = {"layout": "flat", "val_fraction": 0.0}
    fit(tmp_path / "run", tmp_path / "flat", ["bottle"], epochs=1, callbacks=[seen], data=data)
    assert seen.names == {f"{i:03d}.png" for i in range(6)}


def test_verb_from_outside_runs_and_is_in_the_help(script: Path) -> None:
    assert run_script(script, "count", "a", "b") == "2\n"
    assert "  count      count arguments\n" in run_script(script, "--help")


class Parsed(cli.MoLEFlowCLI):
    """Parses, and stops before anything is built."""

    def instantiate_classes(self) -> None:
        self.subcommand = None


@pytest.mark.usefixtures("toy_score", "toy_router", "toy_layout")
def test_parts_from_outside_have_names_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["moleflow"])
    names = {"model.score": "largest", "model.router": "farthest", "data.layout": "flat"}
    args = [f"--{argument}={name}" for argument, name in names.items()]
    config = cli.build(["fit", "--data.tasks=[a]", *args], Parsed).config.fit
    assert {argument: config[argument] for argument in names} == names


@pytest.mark.slow
def test_script_that_imports_parts_runs_the_command_with_them(script: Path) -> None:
    parts = "from my_package import layout, router, score\n"
    script.write_text(parts + script.read_text())
    names = ["--model.score=largest", "--model.router=farthest", "--data.layout=flat"]
    config = yaml.safe_load(run_script(script, "fit", "--data.tasks=[a]", *names, "--print_config"))
    assert (config["model"]["score"], config["model"]["router"]) == ("largest", "farthest")
    assert config["data"]["layout"] == "flat"


@pytest.mark.parametrize(
    "argument", ["adapter", "loss", "score", "image_score", "router", "prototype"]
)
def test_unknown_name_of_a_part_is_refused_with_the_known_ones(
    argument: str, tiny_model: Build
) -> None:
    with pytest.raises(ConfigError, match=f"^{argument} has to be one of '.*, got 'toy'"):
        tiny_model(**{argument: "toy"})
