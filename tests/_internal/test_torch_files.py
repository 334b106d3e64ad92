import io
import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moleflow_pl._internal import torch_files
from moleflow_pl._internal.torch_files import DEEPEST, load_plain, load_weights, require_plain
from moleflow_pl.errors import CheckpointError

CONTENT = {"weights": torch.arange(64.0), "scores": [0.5] * 10, "names": {"a": (1, None, True)}}


def written(content: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(content, file)
    return file


def rewritten(path: Path, content: Any, change: Callable[[str, bytes], tuple[bytes, int]]) -> Path:
    """Write a file whose members are changed, and are packed as `change` says."""
    with zipfile.ZipFile(written(content)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data, kind = change(name, old.read(name))
            new.writestr(name, data, kind)
    return path


@pytest.mark.parametrize("mmap", [True, False])
def test_what_torch_writes_is_read(mmap: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(written(CONTENT).getbuffer())
    content = load_plain(path, mmap)
    assert content["weights"].equal(CONTENT["weights"])
    assert content["scores"] == CONTENT["scores"]
    assert content["names"] == CONTENT["names"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
@pytest.mark.parametrize("name", [b"\xff.ckpt", b"a.\xff"])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_whose_name_is_not_utf8_is_read(mmap: bool, name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    torch.save({"a": torch.ones(2)}, path.open("wb"))
    assert load_plain(path, mmap)["a"].tolist() == [1, 1]
    assert load_weights(path)["a"].tolist() == [1, 1]


def test_an_open_file_is_read_from_its_start_and_left_open() -> None:
    file = written(CONTENT)
    file.seek(0)
    assert load_plain(file, mmap=False)["scores"] == CONTENT["scores"]
    assert not file.closed


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("read", [load_plain, load_weights])
def test_a_compressed_member_is_refused_before_it_is_unpacked(
    read: Callable[[Path], Any], kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rewritten(tmp_path / "a.pt", {"w": torch.zeros(2**22)}, lambda _, data: (data, kind))
    assert path.stat().st_size < 2**17  # of 16 MB
    monkeypatch.setattr(torch, "load", pytest.fail)
    with pytest.raises(CheckpointError, match=r"its member .* is compressed"):
        read(path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(written(CONTENT).getbuffer())
    with zipfile.ZipFile(path, "a") as archive:
        (member,) = [one for one in archive.infolist() if one.filename.endswith("data/0")]
        archive.filelist += [member] * 50
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"its members claim \d+ bytes, and the file has \d+"):
        load_plain(path)


def test_plain_data_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(written(CONTENT).getbuffer())
    monkeypatch.setattr(torch_files, "MOST_PLAIN", 10)
    with pytest.raises(CheckpointError, match="bytes of plain data: at most 10 are"):
        load_plain(path)


def doubled(times: int) -> list[Any]:
    content: list[Any] = [1]
    for _ in range(times):
        content = [content, content]
    return content


def nested(depth: int, inmost: Any = 1) -> Any:
    content = inmost
    for _ in range(depth):
        content = [content]
    return content


def itself() -> list[Any]:
    content: list[Any] = []
    content.append({"a": content})
    return content


SHARED = torch.zeros(2**16)
HOSTILE = {
    "lists that double": (doubled(60), "its .* bytes expand to .* values"),
    "depth": (nested(DEEPEST + 1), "nested deeper than 64"),
    "a list that holds itself": (itself(), "nested deeper than 64"),
    "a tensor that repeats its numbers": (
        {"a": torch.zeros(1).expand(2**40)}, "a tensor claims .* bytes, and the file stores fewer",
    ),
    "tensors that share their numbers": (
        [SHARED.view(2**8, 2**8) for _ in range(20)],
        "bytes expand to .* bytes of tensors",
    ),
    "a tensor without numbers": (
        {"a": torch.zeros(2**40, device="meta")}, "not dense",
    ),
    "bytes": ({"a": bytearray(8)}, "holds a bytearray, which is not plain data"),
    "a set": ({"a": {1}}, "holds a set, which is not plain data"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_content_that_stands_for_more_than_its_file_is_refused_at_once(
    name: str, tmp_path: Path
) -> None:
    content, reason = HOSTILE[name]
    path = tmp_path / "a.pt"
    path.write_bytes(written(content).getbuffer())
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=reason):
        load_plain(path)
    assert time.monotonic() - start < 1


def test_content_up_to_the_limits_is_taken() -> None:
    require_plain(nested(DEEPEST), 100)
    require_plain(doubled(3), 23)
    with pytest.raises(CheckpointError):
        require_plain(doubled(3), 22)
    shared = nested(30)
    require_plain([shared, nested(33, shared)], 200)
    with pytest.raises(CheckpointError, match="deeper"):
        require_plain([shared, nested(35, shared)], 200)


@pytest.mark.parametrize("read", [load_plain, load_weights])
def test_a_pipe_is_refused_at_once(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(OSError, match="not a file but a pipe or a device"):
        read(tmp_path / "a.pt")


def test_weights_of_an_old_version_of_torch_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert load_weights(path)["w"].tolist() == [1, 1]
    with pytest.raises(zipfile.BadZipFile):
        load_plain(path)
