"""Cameras through OpenCV: USB by number, RTSP by address."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from moleflow_pl.errors import ConfigError
from moleflow_pl.service.engine import QueueFullError
from moleflow_pl.service.line import Line, Upload
from moleflow_pl.service.sources.base import SOURCES, Handling, Source

RELEASE_SECONDS = 2.0  # for the last read of a camera


@SOURCES.add("camera")
class CameraSource(Source):
    """Inspects an image from a camera at regular intervals; other frames are dropped."""

    def __init__(self, address: str, line: Line, handling: Handling) -> None:
        super().__init__(address, line, handling)
        try:
            import cv2
        except ImportError as error:
            raise ConfigError(
                "--source camera needs OpenCV: pip install opencv-python-headless"
            ) from error
        self._cv2: Any = cv2

    async def run(self) -> None:
        """Read frames, and inspect one after each interval."""
        place = int(self.address) if self.address.isdecimal() else self.address
        capture = await self.thread.call(self._cv2.VideoCapture, place)
        try:
            due = time.monotonic()
            while True:
                # read all frames: the driver buffers old ones
                frame = await self.thread.call(self._read, capture)
                if time.monotonic() < due:
                    continue
                due = time.monotonic() + self.handling.interval
                await self._inspect(frame)
        finally:
            # not while it is read; if a read never ends, the end of the process does
            release = asyncio.create_task(self.thread.call(capture.release))
            await asyncio.wait([release], timeout=RELEASE_SECONDS)

    def _read(self, capture: Any) -> Any:
        read, frame = capture.read()
        if not read:
            raise OSError("the camera returned no image")
        return frame

    async def _inspect(self, frame: Any) -> None:
        _, content = await self.thread.call(self._cv2.imencode, ".png", frame)
        name = f"{time.time():.3f}.png"
        try:
            await self.line.inspect([Upload(bytes(content), name)], source=self.health.name)
        except QueueFullError:
            self.health.set_state(False, "the queue is full: frames are dropped")
        else:
            self.health.set_state(True, "looking")
