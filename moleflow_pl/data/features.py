"""Features of a frozen backbone, computed once."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.extractor import PatchExtractor
from moleflow_pl.ranks import is_first


def extract_features(extractor: PatchExtractor, loader: DataLoader, title: str) -> Tensor:
    """Run the backbone once over all images of a loader, with a progress bar.

    Args:
        extractor: The frozen backbone, on the device it is to run on.
        loader: Batches with `image`, in the order of the result.
        title: What the bar says.

    Shape: (N, h, w, D), on the CPU.
    """
    dataset = loader.dataset
    assert isinstance(dataset, ImageDataset)
    store: Tensor | None = None
    done = 0
    with tqdm(total=len(dataset), desc=title, unit="image", disable=not is_first()) as bar:
        for batch in loader:
            features = extractor(batch["image"].to(extractor.mean.device)).cpu()
            if store is None:
                # one block of memory from the start: a list would need twice as much at the end
                store = features.new_empty(len(dataset), *features.shape[1:])
            store[done : done + len(features)] = features
            done += len(features)
            bar.update(len(features))
    assert store is not None
    return store
