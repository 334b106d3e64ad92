import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from moleflow_pl import MoLEFlow
from moleflow_pl.data.images import read_image
from moleflow_pl.errors import ExportError
from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.runtimes import Answers, open_file
from moleflow_pl.export.verification import (
    answers,
    difference,
    moved_by_rounding,
    verify,
)
from tests.helpers.exporting import TOLERANCE, Exported, exported_once, pixels_of
from tests.helpers.models import TINY_MODEL, fit, images_between, some_tasks
from tests.helpers.products import draw_product

BILINEAR = Image.Resampling.BILINEAR


def shown_in(images: Tensor) -> list[Image.Image]:
    """Images (B, 3, H, W) as Pillow's."""
    return [Image.fromarray(pixels.numpy()) for pixels in pixels_of(images)]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported_once(tmp_path_factory, "vit")


def test_a_file_that_agrees_is_verified_with_its_differences(vit: Exported) -> None:
    found = verify(
        open_file(vit.onnx, "onnx"), vit.model, vit.graph, shown_in(vit.images), TOLERANCE
    )
    assert set(found) == {"map", "score", "router_distance", "novelty_ratio", "experts"}
    assert all(0 <= value <= TOLERANCE for value in found.values())
    with pytest.raises(ExportError, match=r"differs from the model by .*more than --tolerance 0"):
        verify(open_file(vit.onnx, "onnx"), vit.model, vit.graph, shown_in(vit.images), 0.0)


def test_a_file_of_another_model_is_found_out(vit: Exported) -> None:
    run = open_file(vit.onnx, "onnx")

    def broken(change: str) -> str:
        def run_broken(pixels: Tensor) -> Answers:
            found = run(pixels)
            value = 1 - found[change] if change == "product" else found[change] * 1.001
            return {**found, change: value}

        with pytest.raises(ExportError) as error:
            verify(run_broken, vit.model, vit.graph, shown_in(vit.images), TOLERANCE)
        assert "badly conditioned" not in str(error.value)
        return str(error.value)

    for name in ("map", "score", "router_distance", "novelty_ratio"):
        assert f"'{name}': 0.001" in broken(name) or f"'{name}': 0.000" in broken(name)
    assert "are assigned to another product" in broken("product")
    # no image of the trial goes to the third expert, and yet it is looked at
    spoilt = copy.deepcopy(vit.graph)
    spoilt.flow.flow[0].subnet.layer2.bias[2] += 0.1
    with pytest.raises(ExportError, match=r"\{'experts': "):
        verify(run, vit.model, spoilt, shown_in(vit.images), TOLERANCE)


def test_a_model_that_blows_rounding_up_is_refused_with_the_cause_and_the_options() -> None:
    torch.manual_seed(0)
    built = some_tasks(MoLEFlow(**{**TINY_MODEL, "coupling_layers": 8}), 2)
    images, model = images_between(built), built.inspector
    for task in (0, 1):  # all patches are far from what was learned
        model.flow.adapter_of(task).whitening.mul_(10)
    graph = InspectionGraph(model, map_size=48)

    def rounded(pixels: Tensor) -> Answers:
        found = answers(model, pixels.permute(0, 3, 1, 2), graph)
        return {**found, "score": found["score"] * 1.0002}

    with pytest.raises(ExportError) as error:
        verify(rounded, model, graph, shown_in(images), TOLERANCE)
    said = str(error.value)
    assert "'score': 0.0002" in said or "'score': 0.0001" in said
    assert "The model is badly conditioned: where features are rounded by 1e-06" in said
    assert "Lower model.clamp_alpha (1.9) and learn again" in said
    assert said.endswith("or allow it: --tolerance 0.001")
    assert verify(rounded, model, graph, shown_in(images), 1e-3)["score"] < 1e-3


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
        "map": torch.ones(1, 2, 2), "score": torch.ones(1), "router_distance": torch.ones(1),
        "product": torch.zeros(1, dtype=torch.long), "novelty_ratio": torch.ones(1),
    }  # fmt: skip
    found = difference({**one, "score": torch.tensor([float("nan")])}, one)
    assert not found["score"] <= TOLERANCE


def test_a_file_that_resizes_in_another_way_is_found_out(vit: Exported) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    shown = Image.fromarray(blocks.repeat(11, 0).repeat(5, 1))
    run = open_file(vit.onnx, "onnx")
    verify(run, vit.model, vit.graph, [shown], TOLERANCE)

    def bilinear(pixels: Tensor) -> Answers:
        small = [Image.fromarray(x.numpy()).resize((64, 48), BILINEAR) for x in pixels]
        return run(torch.stack([torch.from_numpy(np.array(image)) for image in small]))

    with pytest.raises(ExportError, match="differs from the model"):
        verify(bilinear, vit.model, vit.graph, [shown], TOLERANCE)
