"""Images to predict: whatever lies at a path, without a layout."""

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

NO_IMAGE_NAME = "its name does not end as an image's"

Sample = tuple[str, Tensor | None, tuple[int, int], str]


def find_files(where: str) -> tuple[list[str], list[str]]:
    """Files a path means (a file, all below a folder, or those a pattern matches).

    Returns:
        Those that may be images, and the others; hidden ones are in neither.

    Raises:
        DataError: there is no image among them.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return [str(path)], []
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    files = sorted(p for p in found if p.is_file() and not p.name.startswith("."))
    images = [str(p) for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DataError(
            f"no image at {where}: give a file, a folder or a pattern such as 'in/*.png'"
        )
    return images, [str(p) for p in files if p.suffix.lower() not in IMAGE_SUFFIXES]


def as_written(path: str) -> str:
    r"""A path as it stands in a table.

    Example:
        >>> as_written("a/\udcff.png")
        'a/\\udcff.png'
    """
    return path.encode("utf-8", "backslashreplace").decode()


class UnsortedImages(Dataset):
    """Images of products that are not known; files that are no images are passed over.

    A batch holds `image` (B, 3, H, W) uint8, `path` and `size` (height and width in the file) of
    those that could be read, and `skipped`, pairs of a path and a reason. B may be 0.

    Args:
        paths: Files that may be images.
        size: Height and width that images are brought to.
        done: Those of them to leave out: they were predicted before.
        others: Files that lie beside them and are no images.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: tuple[int, int],
        done: Collection[str] = (),
        others: Sequence[str] = (),
    ) -> None:
        # names that are written are below it, whatever of it was done before
        self.root = os.path.commonpath([os.path.dirname(path) for path in paths])
        # a name that is no text is written down in another way
        self.paths = [path for path in paths if as_written(path) not in done]
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
            "skipped": [(path, why) for path, image, _, why in samples if image is None],
        }
