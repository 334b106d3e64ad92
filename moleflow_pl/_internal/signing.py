"""Signatures of files with a key that sites share: HMAC-SHA256 over the hash of the contents.

A hash detects damage; a signature shows that someone with the key wrote the file.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from moleflow_pl._internal.files import regular
from moleflow_pl.errors import CheckpointError, ConfigError

KEY_FILE = "MOLEFLOW_KEY_FILE"  # variables of the environment
REQUIRED = "MOLEFLOW_REQUIRE_SIGNATURE"
SIGNATURE = "signature"  # key in a file, beside its seal
SHORTEST_KEY = 16  # bytes
KEY_OPTION, REQUIRE_OPTION = "--key-file", "--require-signature"


def read_key() -> bytes | None:
    """The key of this process, if it has one.

    Raises:
        ConfigError: the key file cannot be read, or is too short.
    """
    path = os.environ.get(KEY_FILE)
    if not path:
        return None
    try:
        key = regular(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read the key file {path}: {error.strerror}; set {KEY_OPTION} to a readable "
            "file"
        ) from error
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"the key file {path} has {len(key)} bytes, and a key needs at least {SHORTEST_KEY}: "
            "make one with openssl rand -hex 32"
        )
    return key


def sign(seal: str) -> dict[str, str]:
    """The entry that signs a seal; empty without a key."""
    key = read_key()
    return {} if key is None else {SIGNATURE: signature_of(seal, key)}


def signature_of(seal: str, key: bytes) -> str:
    """The signature of a seal by a key."""
    return hmac.new(key, b"moleflow " + seal.encode(), "sha256").hexdigest()


def require_signature(signature: Any, seal: str, name: str) -> None:
    """Raise an error for a wrong signature, or for none where one is required.

    Args:
        signature: The signature in the file; None for an unsigned one.
        seal: The hash over its contents, which has been checked.
        name: Name of the file in the message.

    Raises:
        CheckpointError: the signature is wrong, or missing where one is required.
        ConfigError: a signature is required, and there is no key to check it with.
    """
    key, required = read_key(), bool(os.environ.get(REQUIRED))
    if key is None:
        if required:
            raise ConfigError(f"{REQUIRE_OPTION} needs the key: set {KEY_OPTION} FILE")
        return
    if signature is None:
        if required:
            raise CheckpointError(
                f"{name} is not signed, and {REQUIRE_OPTION} is set: write it again with "
                f"{KEY_OPTION}"
            )
        return
    if not hmac.compare_digest(str(signature).encode(), signature_of(seal, key).encode()):
        raise CheckpointError(
            f"{name} is signed with another key: set {KEY_OPTION} to the key it was signed with"
        )


@contextmanager
def chosen(args: Sequence[str]) -> Iterator[list[str]]:
    """Remove the signature options from a command line, and apply them within the block.

    Raises:
        ConfigError: the key option has no value.
    """
    before = {name: os.environ.get(name) for name in (KEY_FILE, REQUIRED)}
    try:
        yield take_options(args)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def take_options(args: Sequence[str]) -> list[str]:
    """Move the signature options into the environment; return the remaining words."""
    rest, words = [], iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option == KEY_OPTION:
            os.environ[KEY_FILE] = value if equals else next(words, "")
            if not os.environ[KEY_FILE]:
                raise ConfigError(f"{KEY_OPTION} needs a file, as in {KEY_OPTION} site.key")
        elif word == REQUIRE_OPTION:
            os.environ[REQUIRED] = "1"
        else:
            rest.append(word)
    return rest
