"""A region of interest from the mask in a product's folder to the expert's file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.checkpoints.expert_edits import add, extract, remove
from moleflow_pl.checkpoints.experts import Expert
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from tests.helpers.models import fit
from tests.helpers.products import SIZE, draw_product

MASK = np.zeros((SIZE, SIZE), np.uint8)
MASK[:, SIZE // 3 :] = 255
INSIDE = torch.tensor([[False, True, True]] * 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `a`, which has a mask, and then of `b`, which has none."""
    where = tmp_path_factory.mktemp("regions")
    for seed, name in enumerate("ab"):
        draw_product(where / "data", name, seed)
    Image.fromarray(MASK).save(where / "data" / "a" / "roi.png")
    options = {"model": {"score": ["depths", "groups"]}, "epochs": 1}
    fit(where / "first", where / "data", ["a"], **options)
    fit(where, where / "data", ["a", "b"], ckpt_path=where / "first" / "last.ckpt", **options)
    return where


def region_of(model: MoLEFlow, task: int) -> torch.Tensor:
    return model.inspector.interest.tasks[str(task)].inside  # type: ignore[return-value]


def test_the_expert_keeps_the_mask_and_a_later_product_changes_nothing(run: Path) -> None:
    first = MoLEFlow.load_from_checkpoint(run / "first" / "last.ckpt").eval()
    both = MoLEFlow.load_from_checkpoint(run / "last.ckpt").eval()
    assert torch.equal(region_of(both, 0), INSIDE)
    assert region_of(both, 1).all()
    state = both.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in first.state_dict().items())
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.no_grad():
        features = first.inspector.extractor(images)
        before, after = (one.inspector.inspect(features, 0) for one in (first, both))
    assert torch.equal(before.score, after.score)
    assert torch.equal(before.patch_scores, after.patch_scores)
    calibration = both.schedule.tasks[0].calibration
    assert calibration == first.schedule.tasks[0].calibration


def test_the_mask_goes_with_the_file_of_its_expert(run: Path, tmp_path: Path) -> None:
    content = read_checkpoint(run / "last.ckpt")
    extract(content, "a").save(tmp_path / "a.safetensors")
    remove(content, "a")
    add(content, Expert.load(tmp_path / "a.safetensors"))
    write_checkpoint(content, tmp_path / "moved.ckpt")
    moved = MoLEFlow.load_from_checkpoint(tmp_path / "moved.ckpt")
    assert moved.schedule.names == ["b", "a"]
    assert torch.equal(region_of(moved, 1), INSIDE)


def test_a_map_is_dark_and_has_no_box_outside(run: Path) -> None:
    found = Predictor.load(run, product="a")(run / "data" / "a" / "test" / "square" / "000.png")
    assert not found.patch_scores[:, 0].any()
    assert found.patch_scores[:, 1:].all()
    assert not found.anomaly_map[:, : SIZE // 6].any()
    # so low a threshold that everything inside is a defect
    marked = replace(found, label="anomalous", pixel_threshold=found.patch_scores.min().item() / 2)
    assert marked.boxes
    assert all(box.left >= SIZE // 6 for box in marked.boxes)
    assert not marked.mask[:, : SIZE // 6].any()
