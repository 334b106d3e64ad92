"""The base class of sources, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moleflow_pl._internal.registry import Registry
from moleflow_pl.service.health import Health, without_password
from moleflow_pl.service.own_thread import OwnThread

if TYPE_CHECKING:
    from moleflow_pl.service.line import Line


@dataclass(frozen=True)
class Handling:
    """How sources handle images.

    Attributes:
        move: Whether inspected files are moved to a subfolder `inspected`.
        interval: Seconds between two images of a camera.
    """

    move: bool = False
    interval: float = 1.0


class Source(ABC):
    """A source of images.

    Args:
        address: What follows the kind in `--source`.
        line: Inspects the images.
        handling: How to handle them.

    Attributes:
        health: Its state.
        thread: For its calls that may block.

    Raises:
        ConfigError: the address is invalid for this kind.
    """

    name: str  # of the kind

    def __init__(self, address: str, line: Line, handling: Handling) -> None:
        self.address, self.line, self.handling = address, line, handling
        self.health = Health(f"{self.name}:{without_password(address)}")
        self.thread = OwnThread(self.health.name)

    @abstractmethod
    async def run(self) -> None:
        """Inspect images until cancelled; after an error, the source is restarted."""


SOURCES: Registry[type[Source]] = Registry("--source")
