"""Features of a frozen backbone, computed once and kept: in memory, or on disk where they are many.

A file of features is a plain `.npy`, named by a hash of all that the numbers depend on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.images import READER
from moleflow_pl.errors import DataError
from moleflow_pl.extractor import PatchExtractor
from moleflow_pl.files import writing
from moleflow_pl.ranks import is_first, wait_for_all


class FeatureStore:
    """Where the features of a task's images are while it is learned.

    Args:
        folder: Where files of features go.
        keep: Keep the files, for other runs on the same images; else they go with `clear`.
        memory_limit: Bytes of features that may be in memory; more are mapped from a file.

    Example:
        >>> store = FeatureStore(Path("features"), memory_limit=2**30)
    """

    def __init__(self, folder: Path, keep: bool = False, memory_limit: int = 2**30) -> None:
        self.folder = folder
        self.keep = keep
        self.memory_limit = memory_limit

    def get(self, extractor: PatchExtractor, loader: DataLoader, title: str) -> Tensor:
        """Features of all images of a loader, in its order; computed unless they are there.

        Args:
            extractor: The frozen backbone, on the device it is to run on.
            loader: Batches with `image`, of an `ImageDataset`, unshuffled.
            title: What the progress bar says.

        Shape: (N, h, w, D), float32, on the CPU.

        Raises:
            DataError: there is no room for the file.
        """
        dataset = loader.dataset
        assert isinstance(dataset, ImageDataset)
        size = 4 * len(dataset) * extractor.patches * extractor.dim
        if size <= self.memory_limit and not self.keep:
            return extract_features(extractor, loader, title)
        path = self.folder / f"{features_key(extractor, dataset)}.npy"
        if is_first() and not path.exists():
            self._fill(path, extractor, loader, title)
        wait_for_all()
        # copy-on-write: torch wants memory it could write to, and no one does
        features = torch.from_numpy(np.load(path, mmap_mode="c"))
        return features.clone() if size <= self.memory_limit else features

    def _fill(self, path: Path, extractor: PatchExtractor, loader: DataLoader, title: str) -> None:
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        # under another name until it is whole
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            extract_features(extractor, loader, title, part)
            with writing(path):
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the files, unless they are to be kept."""
        if self.keep:
            return
        wait_for_all()
        if not is_first() or not self.folder.is_dir():
            return
        for path in self.folder.glob("*.npy*"):
            path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def extract_features(
    extractor: PatchExtractor, loader: DataLoader, title: str, path: Path | None = None
) -> Tensor:
    """Run the backbone once over all images of a loader, with a progress bar.

    Args:
        extractor: The frozen backbone, on the device it is to run on.
        loader: Batches with `image`, in the order of the result.
        title: What the bar says.
        path: A `.npy` file to write to instead of memory.

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
                # one block from the start: a list would need twice as much at the end
                store = new_block((len(dataset), *features.shape[1:]), path)
            store[done : done + len(features)] = features
            done += len(features)
            bar.update(len(features))
    assert store is not None
    return store


def new_block(shape: tuple[int, ...], path: Path | None) -> Tensor:
    """Room for float32 numbers, in memory or in a `.npy` file.

    Raises:
        DataError: there is no room for the file.
    """
    if path is None:
        return torch.empty(shape)
    try:
        block = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # writing to a sparse file on a full disk would kill the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise DataError(
            f"no room for {4e-9 * math.prod(shape):.1f} GB of features in {path.parent} "
            f"({error.strerror}): free some, set data.feature_store to a folder elsewhere, or "
            "data.cache_features to false, which runs the backbone in every epoch"
        ) from error
    return torch.from_numpy(block)


def features_key(extractor: PatchExtractor, dataset: ImageDataset) -> str:
    """Hash of all that features depend on: backbone, preprocessing, contents of the files."""
    digest = hashlib.sha256()
    reduced = extractor.reduced(extractor.mean.device)
    facts = {**extractor.fingerprint(), "bfloat16": reduced, "reader": READER}
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for record in dataset.records:
        with record.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
