"""SHA-256 over contents: plain data and tensors in one canonical form, and files."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moleflow_pl._internal.files import regular

BLOCK = 2**22  # bytes of small tensors that are hashed together
STEP = 2 * 10**9  # ns; the coarsest time stamps of file systems


def content_hash(content: Any) -> str:
    """SHA-256 over the values of plain data and tensors, however they are stored.

    The order of dictionary keys does not matter; tuples count as lists, tensors by dtype, shape and
    bytes. Each value is hashed with its type and length, so different contents cannot collide by
    concatenation.

    Example:
        >>> content_hash({"a": 1, "b": (2.0,)}) == content_hash({"b": [2.0], "a": 1})
        True
        >>> content_hash([1]) == content_hash([1.0])
        False
    """
    parts: list[bytes | Tensor] = []
    add_parts(content, parts)
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            total.update(part)
    for block in joined(part for part in parts if isinstance(part, Tensor)):
        total.update(block)
    return total.hexdigest()


def add_parts(value: Any, parts: list[bytes | Tensor]) -> None:
    """Append the parts of a value in canonical order: bytes, and tensors."""
    if isinstance(value, Tensor):
        parts += [tensor_head(value.dtype, value.shape), value]
    elif isinstance(value, Mapping):
        parts.append(head("dict", b"%d" % len(value)))
        for key in sorted(value, key=lambda key: (type(key).__name__, key)):
            add_parts(key, parts)
            add_parts(value[key], parts)
    elif isinstance(value, (list, tuple)) and value and set(map(type, value)) == {float}:
        parts.append(head("floats", struct.pack(f">{len(value)}d", *value)))  # scores, by thousands
    elif isinstance(value, (list, tuple)):
        parts.append(head("list", b"%d" % len(value)))
        for item in value:
            add_parts(item, parts)
    elif isinstance(value, float):
        parts.append(head("float", struct.pack(">d", value)))
    else:
        # with its class: True, 1 and "1" differ
        parts.append(head(type(value).__name__, str(value).encode("utf-8", "surrogatepass")))


def head(kind: str, data: bytes) -> bytes:
    """Bytes with their kind and length in front."""
    return b"%b %d:%b" % (kind.encode(), len(data), data)


@lru_cache  # models have thousands of tensors of few shapes
def tensor_head(dtype: torch.dtype, shape: torch.Size) -> bytes:
    """Data type and shape of a tensor as `head` gives them."""
    return head("tensor", f"{dtype} {tuple(shape)}".encode())


def joined(tensors: Iterable[Tensor]) -> Iterator[memoryview]:
    """The bytes of tensors one after another, in blocks, each valid until the next.

    Only the bytes of small tensors are copied, by numpy: a thread that hashes must rarely hold the
    GIL, which others need meanwhile, and takes it again when they release it, which may be much
    later. So few large blocks are faster than many small ones.
    """
    buffer = np.empty(BLOCK, dtype=np.uint8)
    waiting: list[np.ndarray] = []
    size = 0

    def filled() -> memoryview:
        block = buffer[:size]
        if waiting:
            np.concatenate(waiting, out=block)
        return block.data

    for data in map(bytes_of, tensors):
        if size + len(data) > BLOCK:
            yield filled()
            waiting, size = [], 0
        if len(data) > BLOCK:
            yield data.data
        else:
            waiting.append(data)
            size += len(data)
    yield filled()


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor (N,), uint8; those of a contiguous one on the CPU are not copied."""
    try:
        values = tensor.numpy(force=True)
    except TypeError:  # numpy has no bfloat16
        values = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return values.reshape(-1).view(np.uint8)


def file_hashes(paths: Iterable[Path]) -> list[str]:
    """SHA-256 over the bytes of each file; read again only if size or modification time change.

    Raises:
        OSError: a file cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(file_hash, paths))


def file_hash(path: Path) -> str:
    """SHA-256 over the bytes of a file, cached as in `file_hashes`."""
    stat = path.stat()
    # time stamps are coarse: a file that has just changed may change again under the same one
    settled = time.time_ns() - stat.st_mtime_ns > STEP
    read = _read_once if settled else _read_once.__wrapped__
    return read(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2**17)
def _read_once(path: Path, size: int, modified: int) -> str:
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
