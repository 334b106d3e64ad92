from pathlib import Path

import torch
from torch.utils.data import DataLoader

from moleflow_pl._internal.distributed import interleave
from moleflow_pl.data.datasets import FeatureDataset, ImageDataset, SeededOrder, SharedBatches
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.data.patch_sampler import PatchDraw


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


def test_batch_of_no_image_has_the_shapes_of_one(data_root: Path) -> None:
    images = ImageDataset(MVTecLayout(data_root).test("b"), 1, (32, 32), masks=True).collate([])
    assert images["image"].shape == (0, 3, 32, 32)
    assert images["gt_label"].dtype == images["task"].dtype == torch.long
    assert images["gt_mask"] == images["path"] == []


def test_empty_batch_has_the_shape_of_sampled_patches(data_root: Path) -> None:
    records = MVTecLayout(data_root).test("b")
    draw = PatchDraw(grid=(3, 3), wanted=4, seed=0, purpose=("b", 0))
    images = ImageDataset(records, 1, (32, 32))
    features = FeatureDataset(torch.randn(len(records), 3, 3, 5), records, 1)
    images.draw = features.draw = draw
    assert images.collate([])["patches"].shape == (0, 4)
    assert features.__getitems__([])["features"].shape == (0, 4, 5)


def test_shares_of_all_ranks_are_the_batches_of_one() -> None:
    order = SeededOrder(23, 0, "a")
    whole = list(SharedBatches(order, 6, 0, 1))
    shares = [list(SharedBatches(order, 2, rank, 3)) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert [interleave(parts) for parts in zip(*shares, strict=True)] == whole
