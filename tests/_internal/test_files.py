import errno
import os
import socket
from pathlib import Path

import pytest

from moleflow_pl._internal.files import (
    LONGEST_NAME,
    is_partial,
    partial_of,
    read_json,
    regular,
    replaceable,
    replacing,
    require_folder,
    write_text,
    writing,
)
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


@pytest.mark.parametrize("by_link", [False, True], ids=["itself", "a link to it"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_only_a_file_is_replaced(kind: str, by_link: bool, tmp_path: Path) -> None:
    path = tmp_path / kind
    server = socket.socket(socket.AF_UNIX)
    if kind == "socket":
        server.bind(os.path.relpath(path))  # whose paths are short
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    before = path.stat()
    (tmp_path / "link").symlink_to(path)
    target = tmp_path / "link" if by_link else path
    what = "a folder" if kind == "folder" else "a pipe or a device"
    with server, pytest.raises(OutputError, match=f"it is not a file but {what}") as error:
        write_text(target, "x")
    assert "\n" not in str(error.value)
    assert path.stat() == before
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_file_or_nothing_or_a_broken_link_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "broken").symlink_to("nothing")
    for name in ("old", "new", "broken", "missing/deep/new"):
        assert replaceable(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "it is a file"),
        ("file/a/b", "file is a file"),
        ("pipe", "it is a pipe or a device"),
        ("broken/a", "broken is a link to nothing"),
        ("loop/a", "a link in it leads back to itself"),
        (f"{'a' * 300}/a", "the name is too long"),
        (f"missing/{'a' * 300}/a", "the name is too long"),
    ],
)
def test_place_that_can_be_no_folder_is_named_in_one_sentence(
    name: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for link, target in (("broken", "nothing"), ("loop", "loop")):
        (tmp_path / link).symlink_to(target)
    for check in (require_folder, lambda folder: replaceable(folder / "x")):
        with pytest.raises(OutputError, match=f"cannot write .*{reason}") as error:
            check(tmp_path / name)
        assert "\n" not in str(error.value)


def test_folder_that_is_there_or_can_be_made_passes(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "a" / "b", tmp_path / "link" / "a", Path(), Path("a")):
        require_folder(folder)


def test_file_name_with_room_for_a_temporary_name_can_be_written(tmp_path: Path) -> None:
    longest = LONGEST_NAME - len(partial_of(Path("x")).name) + 1
    write_text(tmp_path / ("a" * longest), "x")
    with pytest.raises(OutputError, match="the name is too long"):
        replaceable(tmp_path / ("a" * (longest + 1)))


def test_temporary_names_are_recognised_and_those_of_others_are_not() -> None:
    assert is_partial(partial_of(Path("a b.csv")))
    for name in ("a.part", ".0123abcd.part", "a.0123abcd.part.gz", "a.0123abcx.part"):
        assert not is_partial(Path(name))
