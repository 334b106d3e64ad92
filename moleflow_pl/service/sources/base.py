"""The form of a source, and the registry of all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moleflow_pl._internal.registry import Registry
from moleflow_pl.service.health import Health, without_password

if TYPE_CHECKING:
    from moleflow_pl.service.line import Line


@dataclass(frozen=True)
class Handling:
    """How sources treat what they bring.

    Attributes:
        move: Whether files that were judged go to a subfolder `judged`.
        interval: Seconds between two images of a camera.
    """

    move: bool = False
    interval: float = 1.0


class Source(ABC):
    """Something that brings images.

    Args:
        address: What follows the kind in `--source`.
        line: Where images go.
        handling: How to treat them.

    Raises:
        ConfigError: the address is none of this kind.
    """

    name: str  # of the kind

    def __init__(self, address: str, line: Line, handling: Handling) -> None:
        self.address, self.line, self.handling = address, line, handling
        self.health = Health(f"{self.name}:{without_password(address)}")

    @abstractmethod
    async def run(self) -> None:
        """Bring images until it is cancelled; an error that is raised starts it again later."""


SOURCES: Registry[type[Source]] = Registry("--source")
