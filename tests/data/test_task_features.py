from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from moleflow_pl.data.datasets import FeatureDataset, ImageDataset
from moleflow_pl.data.feature_store import FeatureStore
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.data.task_features import TaskDataset, TaskFeatures
from moleflow_pl.features.extractor import PatchExtractor


class Reader:
    """Asks for the training set of tasks of one product each, and counts the passes over images."""

    def __init__(self, root: Path, folder: Path, enabled: bool = True) -> None:
        self.root = root
        self.features = TaskFeatures(FeatureStore(folder), enabled)
        self.extractor = PatchExtractor("test_vit", [0], 48, "random")
        self.passes = 0

    def loader(self, images: ImageDataset) -> DataLoader:
        self.passes += 1
        return DataLoader(images, batch_size=4, collate_fn=images.collate)

    def dataset(self, product: str, task: int) -> TaskDataset:
        records = MVTecLayout(self.root).train(product)
        return self.features.dataset(
            "train", product, lambda: ImageDataset(records, task, (48, 48)), self.extractor,
            self.loader, task,
        )  # fmt: skip


def test_features_are_computed_once_for_each_task(data_root: Path, tmp_path: Path) -> None:
    reader = Reader(data_root, tmp_path)
    first = reader.dataset("01", 0)
    assert reader.dataset("01", 0) is first
    assert reader.passes == 1
    reader.dataset("b", 1)
    assert reader.dataset("01", 0) is not first
    assert reader.passes == 3


def test_features_are_those_of_the_extractor(data_root: Path, tmp_path: Path) -> None:
    reader = Reader(data_root, tmp_path)
    dataset = reader.dataset("b", 0)
    assert isinstance(dataset, FeatureDataset)
    images = ImageDataset(dataset.records, 0, (48, 48))
    expected = reader.extractor(torch.stack([images[i][1] for i in range(len(images))]))
    torch.testing.assert_close(dataset.features, expected)


def test_seconds_are_taken_once(data_root: Path, tmp_path: Path) -> None:
    reader = Reader(data_root, tmp_path)
    assert reader.features.take_seconds() == 0
    reader.dataset("b", 0)
    assert reader.features.take_seconds() > 0
    assert reader.features.take_seconds() == 0


def test_images_serve_where_features_are_not_stored_or_do_not_fit(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(Reader(data_root, tmp_path, enabled=False).dataset("b", 0), ImageDataset)

    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(FeatureStore, "get", full)
    assert isinstance(Reader(data_root, tmp_path).dataset("b", 0), ImageDataset)
