import errno
import os
from pathlib import Path

import pytest

from moleflow_pl._internal.files import read_json, regular, replacing, write_text, writing
from moleflow_pl.errors import DataError, OutputError


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "x.json", "old")
    write_text(tmp_path / "new" / "x.json", "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.json"]
    assert (tmp_path / "new" / "x.json").read_text() == "new"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")

    def half() -> None:
        with replacing(path) as file:
            file.write("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EACCES, "allow writing")]
)
def test_full_or_read_only_disk_is_an_error_and_leaves_the_old_file(
    call: str, number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match=f"cannot write .*x.json.*{remedy}"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_of_a_name_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "x.csv", os.fsdecode(b"caf\xe9.png"))
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == "caf\\udce9.png"


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("x")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b"null", None])
def test_a_damaged_json_file_is_named_in_one_sentence(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="a.json is damaged: ") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert regular(tmp_path / "link").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path, "not a file but a folder"),
        (tmp_path / "pipe", "not a file but a pipe or a device"),
        (Path("/dev/zero"), "not a file but a pipe or a device"),
        (tmp_path / "missing", "No such file"),
    ):
        with pytest.raises(OSError, match=reason) as error:
            regular(path)
        assert error.value.filename == str(path)
