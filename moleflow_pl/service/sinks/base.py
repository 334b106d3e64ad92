"""The base class of sinks, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from moleflow_pl._internal.registry import Registry
from moleflow_pl.service.health import Health, without_password


class RefusedError(Exception):
    """The receiver will never accept this message: it is recorded and skipped."""


class Sink(ABC):
    """A receiver of inspections, in order and at least once.

    Args:
        address: What follows the kind in `--sink`.

    Raises:
        ConfigError: the address is invalid for this kind.
    """

    name: str  # of the kind

    def __init__(self, address: str) -> None:
        self.address = address
        self.health = Health(f"{self.name}:{without_password(address)}")

    @abstractmethod
    def deliver(self, message: dict[str, Any]) -> None:
        """Deliver a message, in a thread that may wait for it.

        Raises:
            RefusedError: the receiver will never accept it.
            Exception: the message was not delivered; the delivery is retried later.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close connections."""


SINKS: Registry[type[Sink]] = Registry("--sink")
