"""Images to predict: the files of a path, without a layout."""

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
from moleflow_pl._internal.result_names import STATE_FILE, TABLE_FILE
from moleflow_pl.data.batches import Identity, PredictBatch
from moleflow_pl.data.folders import (
    ANY_DEPTH,
    base_of,
    common_folder,
    files_below,
    matches_pattern,
)
from moleflow_pl.data.images import ImageFile, shrink, to_tensor
from moleflow_pl.data.layouts.base import IMAGE_SUFFIXES, ROI
from moleflow_pl.data.unused import HIDDEN, describe_reasons
from moleflow_pl.errors import DataError

NO_IMAGE_NAME = "its name has no image suffix"
IS_ROI = "it is the mask of a region of interest"
UNNAMED, THAT_IS_ROI = "whose name has no image suffix", "that is the mask of a region of interest"


@dataclass(frozen=True)
class FoundFiles:
    """The files of a path.

    Attributes:
        root: The folder that names are relative to.
        images: Files whose names are those of images, sorted.
        others: Other files, sorted.
        hidden: Number of hidden files and of files in hidden folders.
        predictions: Folders that `predict` wrote; they are not entered.
    """

    root: str
    images: list[str]
    others: list[str] = field(default_factory=list)
    hidden: int = 0
    predictions: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, images: Sequence[Path]) -> FoundFiles:
        """These images, named below the folder that they share."""
        return cls(str(common_folder(images)), [str(path) for path in images])


def find_files(where: str) -> FoundFiles:
    """Find the files of a path: a file, all files below a folder, or the matches of a pattern.

    Hidden files and folders are left out, and so are folders that an earlier `predict` wrote.

    Raises:
        DataError: no file is an image.
    """
    # os.path: a name that is too long for the disk is no file either
    path = Path(os.path.expanduser(where))
    if os.path.isfile(path):
        return FoundFiles(str(path.parent), [str(path)])
    root = path if os.path.isdir(path) else base_of(str(path))
    predictions: list[str] = []
    candidates = matching_files(path, predictions)
    kept = [p for p in candidates if not is_hidden(p, root)]
    images = [str(p) for p in kept if skip_reason(p) is None]
    if not images:
        raise DataError(
            f"no image at {printable(where)}{describe_left(candidates, root, predictions)}: give a "
            "file, a folder or a pattern such as 'in/*.png'"
        )
    others = [str(p) for p in kept if skip_reason(p) is not None]
    return FoundFiles(str(root), images, others, len(candidates) - len(kept), predictions)


def describe_left(candidates: Sequence[Path], root: Path, predictions: Sequence[str]) -> str:
    """Why a path without images holds none, in words; empty if it holds nothing at all.

    Args:
        candidates: All of its files.
        root: The folder that names are relative to.
        predictions: Folders that `predict` wrote.
    """
    reasons: dict[str, list[Path]] = {}
    for path in candidates:
        named = THAT_IS_ROI if path.name == ROI else UNNAMED
        reason = HIDDEN if is_hidden(path, root) else named
        reasons.setdefault(reason, []).append(path.relative_to(root))
    for folder in predictions:
        reasons.setdefault("written by `predict`", []).append(Path(folder))
    return f" (not used: {describe_reasons(reasons)})" if reasons else ""


def skip_reason(path: str | Path) -> str | None:
    """Why a file below a folder is not predicted, from its name; None if it is an image.

    Example:
        >>> skip_reason("in/notes.txt"), skip_reason("in/1.png")
        ('its name has no image suffix', None)
    """
    if Path(path).name == ROI:
        return IS_ROI
    return None if Path(path).suffix.lower() in IMAGE_SUFFIXES else NO_IMAGE_NAME


def matching_files(path: Path, predictions: list[str]) -> list[Path]:
    """All files in a folder or matching a pattern, including hidden ones, sorted.

    Args:
        path: The folder or the pattern.
        predictions: List to which folders written by `predict` are added.
    """

    def leave_out(folder: Path) -> bool:
        if is_predictions(folder):
            predictions.append(str(folder))
        return str(folder) in predictions

    if os.path.isdir(path):
        return sorted(files_below(path, hidden=True, leave_out=leave_out))
    if ANY_DEPTH not in path.parts:
        return sorted(p for p in map(Path, glob.glob(str(path))) if not os.path.isdir(p))
    depth = path.parts.index(ANY_DEPTH)
    tops = [Path(top) for top in glob.glob(str(Path(*path.parts[:depth])) or ".")]
    return sorted(
        {
            file
            for top in tops
            for file in files_below(top, hidden=True, leave_out=leave_out)
            if matches_pattern(file.relative_to(top).parts, path.parts[depth:])
        }
    )


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file below `root`, or a folder between them, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def is_predictions(folder: Path) -> bool:
    """Whether `predict` wrote a folder, whose pictures must not be predicted."""
    return (folder / STATE_FILE).is_file() and (folder / TABLE_FILE).is_file()


def path_key(path: str) -> str:
    """An absolute path, escaped as in tables."""
    return printable(os.path.abspath(path))


def identity_of(file: ImageFile) -> Identity:
    """The identity of a file that was read."""
    return Identity(path_key(str(file.path)), len(file.content), file.modified, file.digest)


def unchanged(paths: Sequence[str], done: Mapping[str, Identity]) -> set[str]:
    """Keys of the paths whose files have not changed."""
    known = [path for path in paths if path_key(path) in done]
    with ThreadPoolExecutor() as pool:
        same = pool.map(lambda path: is_unchanged(Path(path), done[path_key(path)]), known)
        return {path_key(path) for path, still in zip(known, same, strict=True) if still}


def is_unchanged(path: Path, before: Identity) -> bool:
    """Whether a file has its earlier size, modification time and content."""
    try:
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (before.size, before.modified):
            return False
        return identity_of(ImageFile.read(path)) == before
    except (OSError, DataError):
        return False


@dataclass
class Sample:
    """An image to predict, or the reason why it is skipped."""

    path: str
    reason: str = ""
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    identity: Identity | None = None
    preview: np.ndarray | None = None


class UnsortedImages(Dataset):
    """Images of unknown products; files that cannot be read as images are skipped.

    A batch is a `PredictBatch` of the readable images, with `skipped` for the others; B may be 0.
    Every file is read once.

    Args:
        files: The files.
        size: Height and width that images are resized to.
        done: Images predicted earlier, by `path_key`. Unchanged ones are left out, except the last
            one if nothing else is left.
        preview: Longer side of the small copies for display; None for none.
    """

    def __init__(
        self,
        files: FoundFiles,
        size: tuple[int, int],
        done: Mapping[str, Identity] | None = None,
        preview: int | None = None,
    ) -> None:
        self.files = files
        self.unchanged = unchanged(files.images, done or {})
        to_do = [path for path in files.images if path_key(path) not in self.unchanged]
        self.paths = to_do or files.images[-1:]
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
        # an array: every tensor in a batch costs the loader's process an open file
        small = None if self.preview is None else np.asarray(shrink(rgb, self.preview))
        return Sample(path, "", image, size, identity_of(file), small)

    def collate(self, samples: list[Sample]) -> PredictBatch:
        """Collate samples to a batch."""
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
