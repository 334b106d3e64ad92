import errno
import hashlib
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_pl._internal import hashing
from moleflow_pl._internal.hashing import content_hash, file_hash, file_hashes, joined


def test_hash_tells_values_names_shapes_and_types_apart_but_not_order() -> None:
    one, two = torch.arange(4.0), torch.zeros(2, dtype=torch.int64)
    expected = content_hash({"a": one, "b": two})
    assert content_hash({"b": two, "a": one}) == expected
    others = [
        {"a": one, "c": two},
        {"a": one.reshape(2, 2), "b": two},
        {"a": one, "b": two.int()},
        {"a": one + 1, "b": two},
        {"a": two, "b": one},
    ]
    assert expected not in {content_hash(other) for other in others}


def test_different_contents_have_different_hashes() -> None:
    contents = [
        None, "", "None", 0, 1, True, 1.0, -0.0, 0.0, "1", [], {}, [[]], [1], [1.0], [1.0, None],
        [1.0, 2.0], [[1.0], 2.0], ["ab"], ["a", "b"], ["a", "b", "c"], ["a", ["b", "c"]],
        {"a": 1}, {"a": "1"}, {1: "a"}, {"1": "a"}, {"a": {}, "b": {}}, {"a": {"b": {}}},
        math.nan, math.inf, "\udc80", torch.zeros(0), torch.zeros(()), torch.zeros(1),
        torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bfloat16),
    ]  # fmt: skip
    assert len({content_hash(content) for content in contents}) == len(contents)


def test_hash_does_not_depend_on_how_a_tensor_lies_in_memory() -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    expected = content_hash({"a": tensor})
    assert content_hash({"a": tensor.T.contiguous().T}) == expected
    assert content_hash({"a": torch.arange(-3.0, 12.0)[3:].reshape(3, 4)}) == expected


@pytest.mark.parametrize("at", [0, 7, 8, 100, -1])
def test_any_byte_of_a_large_tensor_counts(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "BLOCK", 8)
    tensor = torch.arange(101, dtype=torch.uint8)
    changed = tensor.clone()
    changed[at] ^= 1
    assert content_hash(changed) != content_hash(tensor)


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), max_size=20), st.integers(1, 30))
def test_blocks_are_the_bytes_of_all_tensors_in_their_order(sizes: list[int], block: int) -> None:
    numbers = torch.arange(sum(sizes), dtype=torch.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "BLOCK", block)
        read = b"".join(map(bytes, joined(numbers.split(sizes))))
        assert read == numbers.numpy().tobytes()


def test_file_is_hashed_again_once_it_changed_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(path.name.encode())
        os.utime(path, ns=(2, 2))
    first = file_hashes(paths)
    with monkeypatch.context() as patch:
        patch.setattr(hashing.hashlib, "file_digest", None)
        assert file_hashes(paths) == first
    paths[0].write_bytes(b"b")
    os.utime(paths[0], ns=(1, 1))
    assert file_hashes(paths) == [first[1], first[1]]
    for content in (b"c", b"d"):  # within one step of the disk's time
        paths[0].write_bytes(content)
        assert file_hash(paths[0]) == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OSError, match="not a file but a pipe or a device") as error:
        file_hash(tmp_path / "x")
    assert error.value.errno == errno.EINVAL


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_a_hash_leaves_threads_and_the_usual_device_of_torch_alone() -> None:
    before, tensor = torch.get_num_threads(), torch.ones(3)
    expected = content_hash([tensor, tensor])
    with torch.device("meta"):
        assert content_hash([tensor, tensor]) == expected
    assert torch.get_num_threads() == before
