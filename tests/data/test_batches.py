from pathlib import Path

import torch

from moleflow_pl.data.batches import Batch, PredictBatch
from moleflow_pl.data.datasets import FeatureDataset, ImageDataset
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.data.patch_sampler import PatchDraw
from moleflow_pl.data.predict_dataset import UnsortedImages, find_files


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
