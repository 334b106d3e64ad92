"""Images to predict: files at a path, without a layout."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from moleflow_pl.data.batches import PredictBatch
from moleflow_pl.data.images import read_rgb, to_tensor
from moleflow_pl.data.layouts.base import IMAGE_SUFFIXES
from moleflow_pl.errors import DataError

NO_IMAGE_NAME = "its name does not end like an image's"

Sample = tuple[str, Tensor | None, tuple[int, int], str]


def find_files(where: str) -> tuple[list[str], list[str]]:
    """Find the files of a path: a file, all files below a folder, or the matches of a pattern.

    Returns:
        Files that may be images, and other files; hidden files are in neither list.

    Raises:
        DataError: there is no image among them.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return [str(path)], []
    matches = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    files = sorted(p for p in matches if p.is_file() and not p.name.startswith("."))
    images = [str(p) for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DataError(
            f"no image at {where}: give a file, a folder or a pattern such as 'in/*.png'"
        )
    return images, [str(p) for p in files if p.suffix.lower() not in IMAGE_SUFFIXES]


def csv_path(path: str) -> str:
    r"""A path as it is written into a table; bytes that are not UTF-8 are escaped.

    Example:
        >>> csv_path("a/\udcff.png")
        'a/\\udcff.png'
    """
    return path.encode("utf-8", "backslashreplace").decode()


class UnsortedImages(Dataset):
    """Images of unknown products; files that cannot be read as images are skipped.

    A batch holds `image` (B, 3, H, W) uint8, `path` and `size` (height and width of the file) of
    the images that could be read, and `skipped`, pairs of a path and a reason. B may be 0.

    Args:
        paths: Files that may be images.
        size: Height and width that images are resized to.
        done: Paths to leave out, as written in a table: they were predicted before.
        others: Files beside them that are not images.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: tuple[int, int],
        done: Collection[str] = (),
        others: Sequence[str] = (),
    ) -> None:
        # of all paths, those done included: output names are relative to it
        self.root = os.path.commonpath([os.path.dirname(path) for path in paths])
        self.paths = [path for path in paths if csv_path(path) not in done]
        self.size = size
        self.others = list(others)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        try:
            rgb = read_rgb(Path(path))
        except DataError as error:
            return path, None, (0, 0), str(error)
        return path, to_tensor(rgb, self.size), (rgb.height, rgb.width), ""

    def collate(self, samples: list[Sample]) -> PredictBatch:
        """Samples as one batch."""
        read = [(path, image, size) for path, image, size, _ in samples if image is not None]
        images = [image for _, image, _ in read]
        return {
            "image": torch.stack(images) if images else torch.zeros(0, 3, *self.size),
            "path": [path for path, _, _ in read],
            "size": [size for _, _, size in read],
            "skipped": [(path, reason) for path, image, _, reason in samples if image is None],
        }
