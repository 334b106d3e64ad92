"""The walks of CONTRIBUTING.md: the code shown there adds a part from outside, which is used."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

import moleflow_pl.cli.lightning as cli
from moleflow_pl import MoLEFlow
from moleflow_pl import cli as verbs
from moleflow_pl.cli.main import VERBS, main
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import ConfigError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.routing.router import ROUTERS
from moleflow_pl.scoring.patch_scores import PATCH_SCORES
from tests.helpers.models import fit, with_tasks
from tests.helpers.products import SIZE, draw_product

Build = Callable[..., MoLEFlow]


def code_of(index: int) -> str:
    """The code of a walk in CONTRIBUTING.md."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    walks = re.findall(r"```python\n(.*?)```", text.partition("## Where to add what")[2], re.DOTALL)
    return walks[index]


def walk(index: int) -> None:
    """Run the code of a walk as it stands there."""
    exec(code_of(index), {"torch": torch})


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
def toy_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module is in a file where the entry looks for it: in the package of the verbs."""
    module, entry = code_of(3).split("\n\n\n")
    (tmp_path / "count.py").write_text(module)
    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path)])
    exec(entry, {"VERBS": VERBS})
    yield
    path, _ = VERBS.pop("count")
    sys.modules.pop(path, None)
    vars(verbs).pop("count", None)


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


@pytest.mark.usefixtures("toy_verb")
def test_verb_from_outside_runs_and_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["count", "a", "b"])
    assert capsys.readouterr().out == "2\n"
    main(["--help"])
    assert "  count      count arguments\n" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    "argument", ["adapter", "loss", "score", "image_score", "router", "prototype"]
)
def test_unknown_name_of_a_part_is_refused_with_the_known_ones(
    argument: str, tiny_model: Build
) -> None:
    with pytest.raises(ConfigError, match=f"^{argument} has to be one of '.*, got 'toy'"):
        tiny_model(**{argument: "toy"})
