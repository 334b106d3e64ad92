"""Files that torch writes, read as plain data within limits that follow from their size.

A file may be hostile: neither its unpacked members nor its expanded references may exceed what a
file of its size can hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from moleflow_pl._internal.files import regular
from moleflow_pl._internal.names import is_utf8
from moleflow_pl.errors import CheckpointError, MoLEFlowError, raise_if_out_of_memory

MOST_PLAIN = 2**26  # bytes of plain data: 45 for a calibration image, 10,000 for a product's names
PLAIN = "/data.pkl"  # the archive member with the plain data
DEEPEST = 64  # nested lists and dictionaries
RATIO = 4  # bytes of tensors for each byte of the file: some tensors share storage
SAFETENSORS = ".safetensors"  # suffix by which timm, too, recognises the format
SIMPLE = {str, int, float, bool, type(None)}


def load_plain(file: Path | str | IO[bytes], mmap: bool = True) -> Any:
    """Load a file written by torch that holds plain data alone; none of its code runs.

    Args:
        file: Its path, or an open file.
        mmap: Leave its tensors on disk until they are used.

    Raises:
        CheckpointError: the file expands beyond its limits, or holds anything but dense tensors and
            plain data.
        OSError: the file cannot be read.
    """
    require_stored(file)
    with utf8_name(file) as named:
        content = torch.load(named, map_location="cpu", weights_only=True, mmap=mmap)
    require_plain(content, size_of(file))
    return content


@contextmanager
def utf8_name(file: Path | str | IO[bytes]) -> Iterator[Path | str | IO[bytes]]:
    """The same file for libraries that open paths of UTF-8 alone: a link, where it has another."""
    if not isinstance(file, (Path, str)) or is_utf8(str(file)):
        yield file
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / "file"
        link.symlink_to(Path(file).absolute())
        yield link


def load_weights(path: Path) -> Any:
    """The weights of a backbone; also from files of old versions of torch, which are not archives.

    Raises:
        CheckpointError: the file is damaged, would unpack to more than its size, or holds more than
            tensors and plain data.
        OSError: the file cannot be read.
    """
    with undamaged(), utf8_name(regular(path)) as named:
        if path.suffix == SAFETENSORS:
            return load_file(named)  # type: ignore[arg-type]
        if is_zipfile(path):
            require_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True)


def check_weights(path: Path) -> None:
    """As `load_weights`, for a file that another library will load: it may not read the tensors.

    Raises:
        CheckpointError: the file cannot be used.
        OSError: the file cannot be read.
    """
    if regular(path).suffix != SAFETENSORS:
        load_weights(path)
        return
    # its header tells how long the file is
    with undamaged(), utf8_name(path) as named, safe_open(named, "pt"):
        pass


@contextmanager
def undamaged() -> Iterator[None]:
    """Turn a failure to parse a file into an error; the caller names the file.

    Raises:
        CheckpointError: the file cannot be parsed.
    """
    try:
        yield
    except (MoLEFlowError, OSError):
        raise
    except Exception as error:  # torch, pickle and safetensors fail in many ways
        raise_if_out_of_memory(error)
        # without the library's message: torch's recommends to run the code in the file
        raise CheckpointError("it is damaged, or holds more than weights") from error


@contextmanager
def opened(file: Path | str | IO[bytes]) -> Iterator[IO[bytes]]:
    """Open a file for reading; an open file keeps its position."""
    if isinstance(file, (str, Path)):
        with regular(file).open("rb") as read:
            yield read
    else:
        start = file.tell()
        yield file
        file.seek(start)


def size_of(file: Path | str | IO[bytes]) -> int:
    """Size of a file in bytes."""
    with opened(file) as read:
        return read.seek(0, os.SEEK_END)


def require_stored(file: Path | str | IO[bytes]) -> None:
    """Raise an error before unpacking an archive that would grow beyond its size.

    Torch writes no compressed members, but reads them.

    Raises:
        CheckpointError: a member is compressed or too large.
    """
    with opened(file) as read, ZipFile(read) as archive:
        members = archive.infolist()
        packed = [member.filename for member in members if member.compress_type != ZIP_STORED]
        if packed:
            raise CheckpointError(
                f"its member {packed[0]!r:.80} is compressed, and torch compresses none"
            )
        total, size = sum(member.file_size for member in members), read.seek(0, os.SEEK_END)
    if total > size:
        raise CheckpointError(f"its members claim {total} bytes, and the file has {size}")
    plain = max(
        (member.file_size for member in members if member.filename.endswith(PLAIN)), default=0
    )
    if plain > MOST_PLAIN:
        raise CheckpointError(
            f"it has {plain} bytes of plain data: at most {MOST_PLAIN} are allowed"
        )


def require_plain(content: Any, size: int) -> None:
    """Raise an error for content whose references expand beyond what its file can hold.

    Lists, dictionaries and tensors may be referenced more than once, so a small file could expand
    to more than fits any memory.

    Args:
        content: Contents of the file.
        size: Bytes of the file.

    Raises:
        CheckpointError: the content expands too far, is nested too deep, or is not plain data.
    """
    measures = Measures()
    count = measures.of(content)[0]
    if count > size:
        raise CheckpointError(f"its {size} bytes expand to {count} values")
    if measures.bytes > RATIO * size:
        raise CheckpointError(f"its {size} bytes expand to {measures.bytes} bytes of tensors")


class Measures:
    """Number of values in plain data with all references expanded, and their depth.

    Attributes:
        bytes: Total size of the tensors.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._known: dict[int, tuple[int, int] | None] = {}

    def of(self, value: Any, above: int = 0) -> tuple[int, int]:
        """Number of values, and levels of lists and dictionaries.

        Args:
            value: Plain data.
            above: Levels above it.

        Raises:
            CheckpointError: the value is nested too deep, contains itself, or is not plain data.
        """
        if isinstance(value, Tensor):
            self.bytes += bytes_of(value)
            return 1, 0
        if type(value) in SIMPLE:
            return 1, 0
        if not isinstance(value, (dict, list, tuple)):
            raise CheckpointError(f"it holds a {type(value).__name__}, which is not plain data")
        key = id(value)
        if key not in self._known:
            self._known[key] = None  # being measured
            self._known[key] = self._of_items(value, above)
        known = self._known[key]
        if known is None or above + known[1] > DEEPEST:
            raise CheckpointError(f"its lists and dictionaries are nested deeper than {DEEPEST}")
        return known

    def _of_items(self, value: Any, above: int) -> tuple[int, int]:
        if above >= DEEPEST:
            raise CheckpointError(f"its lists and dictionaries are nested deeper than {DEEPEST}")
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        if set(map(type, items)) <= SIMPLE:  # fast for long lists of scores
            return 1 + len(items), 1
        measures = [self.of(item, above + 1) for item in items]
        return 1 + sum(count for count, _ in measures), 1 + max(depth for _, depth in measures)


def bytes_of(tensor: Tensor) -> int:
    """Size of a dense tensor in bytes.

    Raises:
        CheckpointError: the tensor is not dense, or has more elements than are stored.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(f"it holds a tensor that is not dense: {tensor.layout}")
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"a tensor claims {size} bytes, and the file stores fewer")
    return size
