from pathlib import Path

import torch
from torch.utils.data import DataLoader

from moleflow_pl.data.datasets import FeatureDataset, ImageDataset, SeededOrder
from moleflow_pl.data.layouts import MVTecLayout


def test_image_batch_says_what_its_images_are(data_root: Path) -> None:
    dataset = ImageDataset(MVTecLayout(data_root).test("b"), 1, (32, 32), masks=True)
    batch = next(iter(DataLoader(dataset, batch_size=6, collate_fn=dataset.collate)))
    assert batch["image"].shape == (6, 3, 32, 32)
    assert batch["task"].tolist() == [1] * 6
    assert batch["gt_label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["defect"][-1] == "square"
    assert batch["product"] == ["b"] * 6
    assert [mask.sum().item() for mask in batch["gt_mask"]] == [0, 0, 0, 256, 256, 256]


def test_images_of_a_product_without_masks_have_none(data_root: Path) -> None:
    dataset = ImageDataset(MVTecLayout(data_root).test("c"), 2, (32, 32), masks=True)
    batch = dataset.collate([dataset[0], dataset[5]])
    assert batch["gt_mask"] == [None, None]


def test_feature_batches_equal_single_items(data_root: Path) -> None:
    records = MVTecLayout(data_root).train("b")
    features = torch.randn(len(records), 2, 2, 4)
    dataset = FeatureDataset(features, records, 1)
    loader = DataLoader(dataset, batch_size=4, collate_fn=dataset.collate)
    batches = list(loader)
    assert torch.equal(torch.cat([b["features"] for b in batches]), features)
    assert [p for b in batches for p in b["path"]] == [str(r.path) for r in records]


def test_order_is_the_same_each_time_and_another_for_another_epoch() -> None:
    order = SeededOrder(20, 0, "a", 1)
    assert list(order) == list(order)
    assert sorted(order) == list(range(20))
    assert list(order) != list(SeededOrder(20, 0, "a", 2))
    assert list(order) != list(SeededOrder(20, 1, "a", 1))
