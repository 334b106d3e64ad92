from pathlib import Path

import torch
from torch.utils.data import DataLoader

from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.features import extract_features
from moleflow_pl.data.layouts import MVTecLayout
from moleflow_pl.extractor import PatchExtractor


def test_stored_features_are_those_of_the_extractor_in_order(data_root: Path) -> None:
    extractor = PatchExtractor("test_vit", [0], 48, "random")
    dataset = ImageDataset(MVTecLayout(data_root).train("b"), 0, (48, 48))
    loader = DataLoader(dataset, batch_size=4, collate_fn=dataset.collate)
    stored = extract_features(extractor, loader, "test")
    fresh = [extractor(batch["image"]) for batch in loader]
    assert torch.equal(stored, torch.cat(fresh))
