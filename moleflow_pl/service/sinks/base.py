"""The form of a sink, and the registry of all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from moleflow_pl._internal.registry import Registry
from moleflow_pl.service.health import Health, without_password


class RefusedError(Exception):
    """The receiver will never take this message: it is noted and passed over."""


class Sink(ABC):
    """Something that is told of each inspection, in order and at least once.

    Args:
        address: What follows the kind in `--sink`.

    Raises:
        ConfigError: the address is none of this kind.
    """

    name: str  # of the kind

    def __init__(self, address: str) -> None:
        self.address = address
        self.health = Health(f"{self.name}:{without_password(address)}")

    @abstractmethod
    def deliver(self, message: dict[str, Any]) -> None:
        """Deliver a message, in a thread that may wait for it.

        Raises:
            RefusedError: the receiver will never take it.
            Exception: it was not delivered; it is tried again later.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections."""


SINKS: Registry[type[Sink]] = Registry("--sink")
