"""Images to predict: files at a path, without a layout."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from moleflow_pl._internal.printable import printable
from moleflow_pl.data.batches import Identity, PredictBatch
from moleflow_pl.data.folders import ANY_DEPTH, base_of, files_below, fits
from moleflow_pl.data.images import ImageFile, shrink, to_tensor
from moleflow_pl.data.layouts.base import IMAGE_SUFFIXES, ROI
from moleflow_pl.errors import DataError

NO_IMAGE_NAME = "its name does not end like an image's"
IS_ROI = "it is the mask of a region of interest"
# the files by which a folder is known as one that `predict` wrote
STATE_FILE, TABLE_FILE = "run.json", "predictions.csv"


@dataclass(frozen=True)
class Found:
    """The files of a path.

    Attributes:
        root: The folder that names are told from.
        images: Files that may be images, sorted.
        others: Files that are no images by their names, sorted.
        hidden: How many are hidden, or in hidden folders.
        predictions: Folders that `predict` wrote; they are not entered.
    """

    root: str
    images: list[str]
    others: list[str] = field(default_factory=list)
    hidden: int = 0
    predictions: list[str] = field(default_factory=list)


def find_files(where: str) -> Found:
    """Find the files of a path: a file, all files below a folder, or the matches of a pattern.

    Hidden files and folders are left out, and so are folders that an earlier `predict` wrote.

    Raises:
        DataError: there is no image among them.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return Found(str(path.parent), [str(path)])
    root = path if path.is_dir() else base_of(str(path))
    predictions: list[str] = []
    candidates = matches_of(path, predictions)
    kept = [p for p in candidates if not is_hidden(p, root)]
    images = [str(p) for p in kept if reason_against(p) is None]
    if not images:
        raise DataError(
            f"no image at {printable(where)}: give a file, a folder or a pattern such as 'in/*.png'"
        )
    others = [str(p) for p in kept if reason_against(p) is not None]
    return Found(str(root), images, others, len(candidates) - len(kept), predictions)


def reason_against(path: str | Path) -> str | None:
    """Why a file below a folder is no image to predict, by its name.

    Example:
        >>> reason_against("in/notes.txt"), reason_against("in/1.png")
        ("its name does not end like an image's", None)
    """
    if Path(path).name == ROI:
        return IS_ROI
    return None if Path(path).suffix.lower() in IMAGE_SUFFIXES else NO_IMAGE_NAME


def matches_of(path: Path, predictions: list[str]) -> list[Path]:
    """All files that a folder or a pattern stands for, hidden ones too, sorted.

    Args:
        path: The folder or the pattern.
        predictions: Gets the folders that `predict` wrote.
    """

    def leave_out(folder: Path) -> bool:
        if is_predictions(folder):
            predictions.append(str(folder))
        return str(folder) in predictions

    if path.is_dir():
        return sorted(files_below(path, hidden=True, leave_out=leave_out))
    if ANY_DEPTH not in path.parts:
        return sorted(p for p in map(Path, glob.glob(str(path))) if not p.is_dir())
    depth = path.parts.index(ANY_DEPTH)
    tops = [Path(top) for top in glob.glob(str(Path(*path.parts[:depth])) or ".")]
    return sorted(
        {
            file
            for top in tops
            for file in files_below(top, hidden=True, leave_out=leave_out)
            if fits(file.relative_to(top).parts, path.parts[depth:])
        }
    )


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file below `root`, or a folder between, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def is_predictions(folder: Path) -> bool:
    """Whether `predict` wrote a folder: its pictures are no images to predict."""
    return (folder / STATE_FILE).is_file() and (folder / TABLE_FILE).is_file()


def path_key(path: str) -> str:
    """An absolute path as it is written into a table."""
    return printable(os.path.abspath(path))


def identity_of(file: ImageFile) -> Identity:
    """What tells a file that was read from others."""
    return Identity(path_key(str(file.path)), len(file.content), file.modified, file.digest)


def unchanged(paths: Sequence[str], done: Mapping[str, Identity]) -> set[str]:
    """Keys of the paths whose files are still what they were."""
    known = [path for path in paths if path_key(path) in done]
    with ThreadPoolExecutor() as pool:
        same = pool.map(lambda path: is_unchanged(Path(path), done[path_key(path)]), known)
        return {path_key(path) for path, still in zip(known, same, strict=True) if still}


def is_unchanged(path: Path, before: Identity) -> bool:
    """Whether a file has the size, the time and the content that it had."""
    try:
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (before.size, before.modified):
            return False
        return identity_of(ImageFile.read(path)) == before
    except (OSError, DataError):
        return False


@dataclass
class Sample:
    """An image to predict, or the reason why it is none."""

    path: str
    reason: str = ""
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    identity: Identity | None = None
    preview: np.ndarray | None = None


class UnsortedImages(Dataset):
    """Images of unknown products; files that cannot be read as images are skipped.

    A batch holds what `PredictBatch` says of the images that could be read, and `skipped`, pairs of
    a path and a reason. B may be 0. Every file is read once.

    Args:
        found: The files.
        size: Height and width that images are resized to.
        done: What was predicted before, by the paths of `path_key`. Files that are still the same
            are left out, but for the last one where nothing else is left to do.
        preview: Longer side of the small copies for display; None for none.
    """

    def __init__(
        self,
        found: Found,
        size: tuple[int, int],
        done: Mapping[str, Identity] | None = None,
        preview: int | None = None,
    ) -> None:
        self.found = found
        self.unchanged = unchanged(found.images, done or {})
        to_do = [path for path in found.images if path_key(path) not in self.unchanged]
        self.paths = to_do or found.images[-1:]
        self.size = size
        self.preview = preview

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        try:
            file = ImageFile.read(Path(path))
            rgb = file.rgb()
        except DataError as error:
            return Sample(path, str(error))
        image, size = to_tensor(rgb, self.size), (rgb.height, rgb.width)
        # an array, since every tensor of a batch costs the loader's process an open file
        small = None if self.preview is None else np.asarray(shrink(rgb, self.preview))
        return Sample(path, "", image, size, identity_of(file), small)

    def collate(self, samples: list[Sample]) -> PredictBatch:
        """Samples as one batch."""
        read = [sample for sample in samples if sample.image is not None]
        images = [sample.image for sample in read if sample.image is not None]
        return {
            "image": torch.stack(images) if images else torch.zeros(0, 3, *self.size),
            "path": [sample.path for sample in read],
            "size": [sample.size for sample in read],
            "identity": [sample.identity for sample in read if sample.identity is not None],
            "preview": [sample.preview for sample in read if sample.preview is not None],
            "skipped": [(sample.path, sample.reason) for sample in samples if sample.reason],
        }
