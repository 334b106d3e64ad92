from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moleflow_pl import ContinualDataModule
from moleflow_pl.data.batches import Batch, PredictBatch, images_of, require_task_batch
from moleflow_pl.data.datasets import FeatureDataset, ImageDataset
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.data.patch_sampler import PatchDraw
from moleflow_pl.data.predict_dataset import UnsortedImages, find_files
from moleflow_pl.errors import DataError


def test_batches_hold_no_key_that_is_not_documented(data_root: Path) -> None:
    records = MVTecLayout(data_root).test("b")
    images = ImageDataset(records, 0, (48, 48), masks=True)
    features = FeatureDataset(torch.randn(len(records), 3, 3, 8), records, 0)
    features.draw = images.draw = PatchDraw((3, 3), 4, 0, ("b", 0))
    by_images = images.collate([images[i] for i in range(2)])
    by_features = features.__getitems__([0, 1])
    assert set(by_images) | set(by_features) == set(Batch.__annotations__)
    assert by_images["path"] == by_features["path"]
    assert torch.equal(by_images["patches"], by_features["patches"])


def test_batches_to_predict_hold_just_the_keys_that_are_documented(data_root: Path) -> None:
    dataset = UnsortedImages(find_files(str(data_root / "b" / "test" / "good")), (48, 48))
    assert set(dataset.collate([dataset[0]])) == set(PredictBatch.__annotations__)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, 0], lambda x: {"image": x}])
def test_images_are_found_in_what_loaders_give(wrap: Callable) -> None:
    images = torch.rand(2, 3, 4, 4)
    assert images_of(wrap(images)) is images


@pytest.mark.parametrize("batch", [torch.rand(2, 1, 4, 4), torch.rand(3), ["a"], [], {}, {"x": 0}])
def test_batches_with_and_without_images_are_distinguished(batch: object) -> None:
    with pytest.raises(DataError, match=r"must be a tensor of images .*, got a "):
        images_of(batch)


def test_batch_of_no_task_is_refused() -> None:
    require_task_batch({"task": torch.zeros(1)})
    for batch in (torch.zeros(1), [torch.zeros(1)], {"image": torch.zeros(1)}):
        with pytest.raises(DataError, match="batches of a ContinualDataModule, got a "):
            require_task_batch(batch)


def test_task_of_a_batch_stays_on_the_host_and_all_else_moves() -> None:
    data = ContinualDataModule(None, ["a"])
    batch = {"task": torch.zeros(2), "image": torch.zeros(2, 3, 4, 4), "path": ["a", "b"]}
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["task"].device.type == "cpu"
    assert moved["image"].device.type == "meta"
    assert moved["path"] == batch["path"]
    images = data.transfer_batch_to_device(batch["image"], torch.device("meta"), 0)
    assert images.device.type == "meta"
