"""Features of a frozen backbone, computed once: in memory, or on disk if they are too large.

A feature file is a plain `.npy`, named by a hash of everything that its values depend on. A
description beside it holds a hash of the values themselves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from moleflow_pl._internal.distributed import gather, is_first, rank_and_world, wait_for_all
from moleflow_pl._internal.files import regular, require_folder, write_text, writing
from moleflow_pl._internal.hashing import content_hash, file_hashes
from moleflow_pl._internal.schema import SEAL, require_seal, stamp
from moleflow_pl._internal.steps import step
from moleflow_pl._internal.upgrade import Kind, upgrade
from moleflow_pl.data.datasets import ImageDataset
from moleflow_pl.data.images import READER
from moleflow_pl.errors import DataError
from moleflow_pl.features.extractor import PatchExtractor

logger = logging.getLogger(__name__)

# a feature file, also while it is being written, and its description
OWN_NAME = re.compile(r"[0-9a-f]{64}\.(npy(\.\d+)?|json)")


class FeatureStore:
    """Stores the features of a task's images while the task is learned.

    Args:
        folder: Folder of the feature files.
        keep: Keep the files for other runs on the same images; otherwise `clear` removes them.
        memory_limit: Size in bytes up to which features are held in memory; larger ones are mapped.

    Example:
        >>> store = FeatureStore(Path("features"), memory_limit=2**30)
    """

    def __init__(self, folder: Path, keep: bool = False, memory_limit: int = 2**30) -> None:
        self.folder = folder
        self.keep = keep
        self.memory_limit = memory_limit

    def get(self, extractor: PatchExtractor, loader: DataLoader, title: str) -> Tensor:
        """Features of all images of a loader, in its order; computed unless they are stored.

        Args:
            extractor: The frozen backbone, on the device it runs on.
            loader: Unshuffled loader of an `ImageDataset`; its batches have `image`.
            title: Title of the progress bar.

        Shape: (N, h, w, W), float32, on the CPU.

        Raises:
            DataError: the disk has no space for the file.
        """
        dataset = loader.dataset
        assert isinstance(dataset, ImageDataset)
        size = 4 * len(dataset) * math.prod(extractor.shape)
        single_process = rank_and_world()[1] == 1
        if size <= self.memory_limit and not self.keep and single_process:
            return extract_features(extractor, loader, title)
        path = self.folder / f"{features_key(extractor, dataset)}.npy"
        shape = (len(dataset), *extractor.shape)
        if any(
            gather(not is_usable(path, shape))
        ):  # gathered: all ranks have checked before one writes
            self._fill(path, extractor, loader, title)
        # copy-on-write: torch requires writable memory, although nothing writes to it
        features = torch.from_numpy(np.load(regular(path), mmap_mode="c"))
        return features.clone() if size <= self.memory_limit else features

    def _fill(self, path: Path, extractor: PatchExtractor, loader: DataLoader, title: str) -> None:
        """Write a feature file; each rank computes its share."""
        if is_first():
            require_folder(self.folder)
        # under a temporary name until it is complete
        part = path.with_name(f"{path.name}.{gather(os.getpid())[0]}")
        try:
            if is_first():
                with writing(path):
                    self.folder.mkdir(parents=True, exist_ok=True)
                new_block(len(loader.dataset), extractor, part)  # type: ignore[arg-type]
            wait_for_all()
            block = np.load(part, mmap_mode="r+")
            fill(torch.from_numpy(block), extractor, loader, title)
            block.flush()
            wait_for_all()
            if is_first():
                with writing(path):
                    part.replace(path)
                describe(path)
        finally:
            if is_first():
                part.unlink(missing_ok=True)
        wait_for_all()

    def clear(self) -> None:
        """Remove the store's files, and no others, unless `keep` is set."""
        if self.keep:
            return
        wait_for_all()
        if not is_first() or not self.folder.is_dir():
            return
        for path in list(self.folder.iterdir()):
            if OWN_NAME.fullmatch(path.name):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def describe(path: Path) -> None:
    """Write the description beside a feature file, last: without it the file is incomplete."""
    description = {**stamp(), SEAL: content_hash(contents_of(path))}
    write_text(path.with_suffix(".json"), json.dumps(description))


def contents_of(path: Path) -> list[Any]:
    """Contents of a feature file: the hash of its inputs, which is its name, and its values."""
    # not np.load, which opens archives too
    return [path.stem, torch.from_numpy(np.lib.format.open_memmap(regular(path), mode="c"))]


def is_usable(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a feature file exists, is undamaged, and has a shape (N, h, w, D).

    Rank 0 checks for all: they share the file, and it is large.
    """
    if not is_first():
        return path.exists()
    if not path.exists():
        return False
    try:
        description = json.loads(regular(path.with_suffix(".json")).read_text(encoding="utf-8"))
        description = upgrade(Kind.FEATURES, description, "its description")
        contents = contents_of(path)
        values: Tensor = contents[1]
        if values.dtype != torch.float32 or values.shape != shape:
            raise DataError(f"it holds {values.dtype} {[*values.shape]}, not float32 {[*shape]}")
        require_seal(description.get(SEAL), content_hash(contents), "it")
    except Exception as error:  # a foreign file can break a reader in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning(f"{path} cannot be used and is computed again: {reason}")
        return False
    return True


def extract_features(extractor: PatchExtractor, loader: DataLoader, title: str) -> Tensor:
    """Run the backbone once over all images of a loader, with a progress bar.

    Args:
        extractor: The frozen backbone, on the device it runs on.
        loader: Its batches have `image`; their order is that of the result.
        title: Title of the progress bar.

    Shape: (N, h, w, D), on the CPU.
    """
    # allocated at once: concatenating a list would take twice the memory
    block = torch.empty(len(loader.dataset), *extractor.shape)  # type: ignore[arg-type]
    fill(block, extractor, loader, title)
    return block


def fill(block: Tensor, extractor: PatchExtractor, loader: DataLoader, title: str) -> None:
    """Write features into a block (N, h, w, D); each rank writes those of its batches.

    The batches, and so the values, are the same as in a single process.
    """
    rank, world = rank_and_world()
    batches: list[list[int]] = list(loader.batch_sampler)[rank::world]  # type: ignore[arg-type]
    rank_loader = DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        collate_fn=loader.collate_fn,
    )
    with step(title, "features", sum(map(len, batches))) as advance:
        for indices, batch in zip(batches, rank_loader, strict=True):
            images = batch["image"].to(extractor.mean.device, non_blocking=True)
            block[indices] = extractor(images).cpu()
            advance(len(indices))


def new_block(images: int, extractor: PatchExtractor, path: Path) -> None:
    """Allocate a `.npy` file for the features of a number of images.

    Raises:
        DataError: the disk has no space for the file.
    """
    shape = (images, *extractor.shape)
    try:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # writing into a sparse file on a full disk would kill the process
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise DataError(
            f"no room for {4e-9 * math.prod(shape):.1f} GB of features in {path.parent} "
            f"({error.strerror}): free some space, set data.feature_store to another folder, or "
            "set data.cache_features to false, which runs the backbone in every epoch"
        ) from error


def features_key(extractor: PatchExtractor, dataset: ImageDataset) -> str:
    """Hash of everything that features depend on: backbone, image reader, contents of the files."""
    digest = hashlib.sha256()
    bfloat16 = extractor.runs_in_bfloat16(extractor.mean.device)
    facts = {**extractor.fingerprint(), "bfloat16": bfloat16, "reader": READER}
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update("".join(file_hashes(record.path for record in dataset.records)).encode())
    variants = [record.variant for record in dataset.records]
    if any(variants):
        digest.update(json.dumps(variants).encode())
    return digest.hexdigest()
