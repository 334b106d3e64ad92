import os
from pathlib import Path

import pytest

from moleflow_pl._internal.signing import (
    KEY_FILE,
    REQUIRED,
    SIGNATURE,
    chosen,
    read_key,
    require_signature,
    sign,
)
from moleflow_pl.errors import CheckpointError, ConfigError

SEAL = "ab" * 32


def key_in(folder: Path, text: str) -> str:
    path = folder / f"{text[0]}.key"
    path.write_text(text * 32 + "\n")
    return str(path)


def test_signature_is_of_the_seal_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sign(SEAL) == {}
    monkeypatch.setenv(KEY_FILE, key_in(tmp_path, "a"))
    signature = sign(SEAL)[SIGNATURE]
    require_signature(signature, SEAL, "x")
    with pytest.raises(CheckpointError, match="x is signed with another key"):
        require_signature(signature, "cd" * 32, "x")
    monkeypatch.setenv(KEY_FILE, key_in(tmp_path, "b"))
    with pytest.raises(CheckpointError, match="x is signed with another key"):
        require_signature(signature, SEAL, "x")


def test_unsigned_file_is_refused_where_a_signature_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_signature(None, SEAL, "x")
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(ConfigError, match="--require-signature needs the key"):
        require_signature("ab", SEAL, "x")
    monkeypatch.setenv(KEY_FILE, key_in(tmp_path, "a"))
    with pytest.raises(CheckpointError, match="x is not signed"):
        require_signature(None, SEAL, "x")
    require_signature(sign(SEAL)[SIGNATURE], SEAL, "x")


@pytest.mark.parametrize("content", [None, "", "short"])
def test_invalid_key_file_is_refused_by_name(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "k").write_text(content)
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "k"))
    with pytest.raises(ConfigError, match=str(tmp_path / "k")):
        read_key()


@pytest.mark.parametrize("words", [["--key-file", "k"], ["--key-file=k"]])
def test_options_are_taken_out_and_hold_for_the_command_alone(words: list[str]) -> None:
    with chosen(["fit", *words, "--require-signature", "--x=1"]) as rest:
        assert rest == ["fit", "--x=1"]
        assert (os.environ[KEY_FILE], os.environ[REQUIRED]) == ("k", "1")
    assert KEY_FILE not in os.environ
    assert REQUIRED not in os.environ


def test_key_without_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="--key-file needs a file"), chosen(["fit", "--key-file"]):
        pass
    assert KEY_FILE not in os.environ
