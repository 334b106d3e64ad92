"""The four walks of CONTRIBUTING.md: each adds a part from outside the package, and uses it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

import moleflow_pl.cli.lightning as cli
from moleflow_pl import MoLEFlow, PrototypeRouter
from moleflow_pl.cli.main import VERBS, main
from moleflow_pl.data.layouts.base import ImageRecord, RootedLayout, images_in
from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.errors import ConfigError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.routing.router import ROUTERS
from moleflow_pl.scoring.patch_scores import PATCH_SCORES, Flow, Nearest, PatchScore
from tests.helpers.models import fit, with_tasks
from tests.helpers.products import SIZE, draw_product

Build = Callable[..., MoLEFlow]


@pytest.fixture
def toy_score() -> Iterator[None]:
    @PATCH_SCORES.add("toy")
    class LargestChannel(PatchScore):
        """The largest channel of the latent."""

        def __call__(self, flow: Flow, features: Tensor, task: Any, nearest: Nearest) -> Tensor:
            latent, _ = flow(features, task)
            return latent.abs().amax(-1)

    yield
    del PATCH_SCORES["toy"]


@pytest.fixture
def toy_router() -> Iterator[None]:
    @ROUTERS.add("toy")
    class FarthestRouter(PrototypeRouter):
        """The farthest prototype."""

        def __init__(self, regions: int | None) -> None:
            super().__init__("euclidean")

        def choose(self, distances: Tensor) -> Tensor:
            return torch.tensor(self.tasks)[distances.argmax(1)]

    yield
    del ROUTERS["toy"]


@pytest.fixture
def toy_layout() -> Iterator[None]:
    @LAYOUTS.add("toy")
    class FlatLayout(RootedLayout):
        """One folder, in which the name of a file says product and defect."""

        tree = "the expected tree:\n    <root>/<product>-<good or defect>-<number>.png"

        def products(self) -> list[str]:
            return sorted({record.product for record in self._records()})

        def train(self, product: str) -> list[ImageRecord]:
            good = [r for r in self._records() if r.product == product and not r.gt_label]
            if not good:
                raise self.no_product(product, self.products())
            return good

        def test(self, product: str) -> list[ImageRecord]:
            return [r for r in self._records() if r.product == product]

        def _records(self) -> list[ImageRecord]:
            return [ImageRecord(p, *p.stem.split("-")[:2]) for p in images_in(self.root)]

    yield
    del LAYOUTS["toy"]


@pytest.fixture
def toy_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("moleflow_pl.cli.toy")
    module.main = lambda args: print("toy with", *args)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = VERBS["report"][0].replace("report", "toy")
    monkeypatch.setitem(VERBS, "toy", (path, "play"))


@torch.no_grad()
@pytest.mark.usefixtures("toy_score")
def test_patch_score_from_outside_scores_in_the_model_and_in_an_exported_graph(
    tiny_model: Build,
) -> None:
    model = with_tasks(tiny_model(score="toy"))
    images = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    found = model(images)
    features = model.position(model.extractor(images))
    for image, task in enumerate(found.task.tolist()):
        latent, _ = model.flow(features[image : image + 1], task)
        expected = latent.abs().max(-1).values[0]
        torch.testing.assert_close(found.patch_scores[image], expected, rtol=1e-4, atol=1e-4)
    _, score, product, _, _ = InspectionGraph(model)(images)
    torch.testing.assert_close(score, found.score, rtol=1e-4, atol=1e-4)
    assert product.tolist() == found.task.tolist()


@torch.no_grad()
@pytest.mark.usefixtures("toy_router")
def test_router_from_outside_picks_the_expert(tiny_model: Build) -> None:
    model = with_tasks(tiny_model(router="toy"))
    found = model(torch.rand(4, 3, SIZE, SIZE))
    assert found.task.tolist() == found.distances.argmax(1).tolist()
    expected = model.inspect(model.extractor(torch.zeros(1, 3, SIZE, SIZE)))
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
    draw_product(tmp_path, "bottle", 0)
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted((tmp_path / "bottle" / "train" / "good").iterdir())):
        path.rename(flat / f"bottle-good-{i}.png")
    (tmp_path / "bottle" / "test" / "square" / "000.png").rename(flat / "bottle-hole-0.png")
    seen = SeenImages()
    data = {"layout": "toy", "val_fraction": 0.0}
    fit(tmp_path / "run", flat, ["bottle"], epochs=1, callbacks=[seen], data=data)
    assert seen.names == {f"bottle-good-{i}.png" for i in range(6)}


@pytest.mark.usefixtures("toy_verb")
def test_verb_from_outside_runs_and_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["toy", "cars"])
    assert capsys.readouterr().out == "toy with cars\n"
    main(["--help"])
    assert "  toy       play\n" in capsys.readouterr().out


class Parsed(cli.MoLEFlowCLI):
    """Parses, and stops before anything is built."""

    def instantiate_classes(self) -> None:
        self.subcommand = None


@pytest.mark.usefixtures("toy_score", "toy_router", "toy_layout")
def test_parts_from_outside_have_names_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["moleflow"])
    args = ["--model.score=toy", "--model.router=toy", "--data.layout=toy", "--data.tasks=[a]"]
    config = cli.build(["fit", *args], Parsed).config.fit
    assert (config.model.score, config.model.router, config.data.layout) == ("toy",) * 3


@pytest.mark.parametrize(
    "argument", ["adapter", "loss", "score", "image_score", "router", "prototype"]
)
def test_unknown_name_of_a_part_is_refused_with_the_known_ones(
    argument: str, tiny_model: Build
) -> None:
    with pytest.raises(ConfigError, match=f"^{argument} has to be one of '.*, got 'toy'"):
        tiny_model(**{argument: "toy"})
