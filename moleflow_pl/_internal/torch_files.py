"""Files that torch writes, read as plain data within limits that follow from their own size.

A file may come from anyone: neither what it unpacks to nor what it refers to may be larger than the
file lets expect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor

from moleflow_pl._internal.files import regular
from moleflow_pl.errors import CheckpointError

MOST_PLAIN = 2**26  # bytes of plain data: 45 of a calibration image, 10,000 of a product's names
PLAIN = "/data.pkl"  # the member of plain data
DEEPEST = 64  # lists and dictionaries within one another
RATIO = 4  # bytes of tensors for each byte of their file: some share their numbers
SIMPLE = {str, int, float, bool, type(None)}


def load_plain(file: Path | str | IO[bytes], mmap: bool = True) -> Any:
    """What a file written by torch holds, if that is plain data; no code of it runs.

    Args:
        file: Its path, or an open file.
        mmap: Leave its tensors on disk until they are asked for.

    Raises:
        CheckpointError: it holds more than its size lets expect, or something else than dense
            tensors and plain data.
        OSError: it cannot be read.
    """
    require_stored(file)
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    require_plain(content, size_of(file))
    return content


def load_weights(path: Path) -> Any:
    """The weights of a backbone; files of old versions of torch are no archives, and are read too.

    Raises:
        CheckpointError: it is an archive that unpacks to more than its size.
        OSError: it cannot be read.
    """
    if is_zipfile(regular(path)):
        try:
            require_stored(path)
        except CheckpointError as error:
            raise CheckpointError(f"the weights {path} cannot be used: {error}") from error
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def opened(file: Path | str | IO[bytes]) -> Iterator[IO[bytes]]:
    """A file for reading; one that is open already is left where it was."""
    if isinstance(file, (str, Path)):
        with regular(file).open("rb") as read:
            yield read
    else:
        start = file.tell()
        yield file
        file.seek(start)


def size_of(file: Path | str | IO[bytes]) -> int:
    """Bytes of a file."""
    with opened(file) as read:
        return read.seek(0, os.SEEK_END)


def require_stored(file: Path | str | IO[bytes]) -> None:
    """Refuse an archive that would unpack to more than its size, before anything is unpacked.

    Torch compresses nothing when it writes, but reads what others compressed.

    Raises:
        CheckpointError: it would.
    """
    with opened(file) as read, ZipFile(read) as archive:
        members = archive.infolist()
        packed = [member.filename for member in members if member.compress_type != ZIP_STORED]
        if packed:
            raise CheckpointError(f"its member {packed[0]!r:.80} is compressed: torch writes none")
        total, size = sum(member.file_size for member in members), read.seek(0, os.SEEK_END)
    if total > size:
        raise CheckpointError(f"it has {size} bytes, and its members {total}")
    plain = max((one.file_size for one in members if one.filename.endswith(PLAIN)), default=0)
    if plain > MOST_PLAIN:
        raise CheckpointError(f"it has {plain} bytes of plain data, of {MOST_PLAIN} at most")


def require_plain(content: Any, size: int) -> None:
    """Refuse content that refers to more than a file of its size can hold.

    Lists, dictionaries and tensors may be referred to more than once: written out, a small file
    could say more than any memory holds.

    Args:
        content: What was read.
        size: Bytes of its file.

    Raises:
        CheckpointError: it is too large or too deep written out, or no plain data.
    """
    measures = Measures()
    count = measures.of(content)[0]
    if count > size:
        raise CheckpointError(f"written out, its {size} bytes are {count} values")
    if measures.bytes > RATIO * size:
        raise CheckpointError(f"its {size} bytes are {measures.bytes} bytes of tensors")


class Measures:
    """How many values plain data has if it is written out, and how deep they lie.

    Attributes:
        bytes: Of the tensors.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._known: dict[int, tuple[int, int] | None] = {}

    def of(self, value: Any, above: int = 0) -> tuple[int, int]:
        """Number of values, and levels of lists and dictionaries.

        Args:
            value: Plain data.
            above: Levels that it lies below.

        Raises:
            CheckpointError: it lies too deep, holds itself, or is no plain data.
        """
        if isinstance(value, Tensor):
            self.bytes += bytes_of(value)
            return 1, 0
        if type(value) in SIMPLE:
            return 1, 0
        if not isinstance(value, (dict, list, tuple)):
            raise CheckpointError(f"it holds a {type(value).__name__}, which is no plain data")
        key = id(value)
        if key not in self._known:
            self._known[key] = None  # under way
            self._known[key] = self._of_items(value, above)
        known = self._known[key]
        if known is None or above + known[1] > DEEPEST:
            raise CheckpointError(f"its lists and dictionaries lie more than {DEEPEST} deep")
        return known

    def _of_items(self, value: Any, above: int) -> tuple[int, int]:
        if above >= DEEPEST:
            raise CheckpointError(f"its lists and dictionaries lie more than {DEEPEST} deep")
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        if set(map(type, items)) <= SIMPLE:  # scores, by thousands
            return 1 + len(items), 1
        measures = [self.of(item, above + 1) for item in items]
        return 1 + sum(count for count, _ in measures), 1 + max(depth for _, depth in measures)


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a dense tensor's numbers.

    Raises:
        CheckpointError: it is of another kind, or has more numbers than are stored.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(f"it holds a tensor that is not dense: {tensor.layout}")
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"a tensor of {size} bytes has fewer in the file")
    return size
